/**
 * The state machine of one device: frames, time and requests in; frames, deadlines and events out.
 *
 * ```text
 *                 connection            welcome
 *   connecting ──────────────▶ greeting ───────▶ open ───▶ ended
 *       ▲                          │               │         ▲
 *       │ at its time              ▼               ▼         │ "do not reconnect"
 *       └───────────────────────waiting ◀──── lost ──────────┘
 * ```
 *
 * It owns no socket, clock, storage or source of randomness; {@link Client} does what it says. After every call:
 * write what `pollTransmit` gives, store what `pollSave` gives, hand on what `pollBatch` gives, act on what
 * `pollEvent` gives, and come back at `pollTimeout`.
 */

import { afterClose, Backoff, type Random, type Reconnect } from "./backoff.ts";
import { isPassing, RequestError, type Lost, type Refused } from "./errors.ts";
import {
  FrameError,
  parseServerFrame,
  type Accepted,
  type ClientFrame,
  type NamedFrame,
  type People,
  type QueryFrame,
  type Receipts,
  type ServerError,
  type ServerFrame,
  type UserPresence,
  type UserTyping,
  type Welcome,
} from "./frames.ts";
import { Heartbeat } from "./heartbeat.ts";
import { compareIds, type Id } from "./ids.ts";
import { Inbox, type Batch } from "./inbox.ts";
import type { InboxEntry } from "./messages.ts";
import { clientIdOf, Outbox } from "./outbox.ts";
import { Pace } from "./pace.ts";
import { Queries, type Answer, type Answered, type Failed } from "./queries.ts";

/** A refusal that says "later" but not when. */
const RETRY_MS = 1_000;
/**
 * The server allows 2 frames per second, with a burst of 20, that are neither sends nor named: half of them for
 * queries, the rest for acks, syncs and beats. (`welcome` does not say so; a refusal is obeyed in any case.)
 */
const QUERIES_PER_SECOND = 1;
const QUERIES_BURST = 10;
/** Before `welcome` says it. */
const MESSAGE_BYTES = 65_536;

export interface MachineOptions {
  readonly url: string;
  readonly device: string;
  /** A token that was refused may be replaced by a new one. */
  readonly canRenewToken: boolean;
  /** The application takes a snapshot in the place of very many entries. */
  readonly takesSnapshots: boolean;
  /** What was stored; `cursor` null: a new device, which goes by what the server knows. */
  readonly kept: Kept;
  /** From wanting a connection to `welcome`; also how long the server may take for the next page. */
  readonly connectTimeoutMs: number;
  /** The first reconnect comes after at most this; each failure doubles it. */
  readonly backoffFirstMs: number;
  /** It doubles up to here. */
  readonly backoffMaxMs: number;
  /** At most one `ack` in this time: the last one counts. */
  readonly ackIntervalMs: number;
  /** How long a query may wait for its answer. */
  readonly queryTimeoutMs: number;
  /** Requests with a name that may wait for their answers, and their bytes. */
  readonly outboxRequests: number;
  readonly outboxBytes: number;
  /** Queries that may wait for their answers. */
  readonly queries: number;
  /** Entries that may wait for the application. */
  readonly inboxEntries: number;
}

/** What has to survive a restart. */
export interface Kept {
  readonly cursor: Id | null;
  readonly outbox: readonly NamedFrame[];
}

export interface Save {
  readonly version: number;
  readonly kept: Kept;
}

export type ConnectionState =
  | { readonly name: "idle" | "connecting" | "open" }
  /** Until `retryAtMs`. `failures`: attempts since the last connection that lasted. */
  | { readonly name: "waiting"; readonly retryAtMs: number; readonly failures: number; readonly why: Lost }
  /** Nothing more happens by itself. */
  | { readonly name: "ended"; readonly why: Lost };

export type MachineEvent =
  /** Get a token, another one if the last was refused, open a WebSocket, then call `handleOpen` or `handleClose`. */
  | { readonly kind: "connect"; readonly url: string; readonly isTokenRefused: boolean }
  /** Close the WebSocket; what happens to it from here on is not to be reported. */
  | { readonly kind: "disconnect" }
  | { readonly kind: "state"; readonly state: ConnectionState }
  | { readonly kind: "welcome"; readonly welcome: Welcome }
  /** Everything up to here has come; from here on entries come as they happen. */
  | { readonly kind: "live"; readonly rev: Id }
  /** Notes about who is writing and who has read may have been lost. */
  | { readonly kind: "gap" }
  | { readonly kind: "accepted"; readonly accepted: Accepted }
  | { readonly kind: "rejected"; readonly clientId: string; readonly error: RequestError }
  | { readonly kind: "answered"; readonly id: number; readonly answer: Answer }
  | { readonly kind: "failed"; readonly id: number; readonly error: RequestError }
  | { readonly kind: "receipts"; readonly receipts: Receipts }
  | { readonly kind: "people"; readonly people: People }
  | { readonly kind: "typing"; readonly typing: UserTyping }
  | { readonly kind: "presence"; readonly users: readonly UserPresence[] }
  | { readonly kind: "refused"; readonly refused: Refused }
  | { readonly kind: "other"; readonly name: string; readonly content: unknown };

interface Open {
  readonly name: "open";
  readonly sinceMs: number;
  readonly user: Id;
  readonly heartbeat: Heartbeat;
  readonly sendPace: Pace;
  readonly queryPace: Pace;
}

type State =
  | { readonly name: "idle" | "ended" }
  | { readonly name: "connecting" | "greeting"; readonly deadlineMs: number }
  | { readonly name: "waiting"; readonly atMs: number }
  | Open;

export class Machine {
  readonly #options: MachineOptions;
  readonly #random: Random;
  readonly #backoff: Backoff;
  readonly #outbox: Outbox;
  readonly #queries: Queries;
  #inbox: Inbox;
  #state: State = { name: "idle" };
  #nowMs = 0;
  /** Frames that are not drawn from a queue of their own: `hello`, `typing`. */
  #out: ClientFrame[] = [];
  #events: MachineEvent[] = [];
  #isBeatDue = false;
  /** The server asked to come there instead. */
  #nextUrl: string | null = null;
  #isTokenRefused = false;
  #isTokenFresh = false;
  #lastError: Refused | null = null;
  #messageBytesMax = MESSAGE_BYTES;
  /** When to ask for what is missing; when pages that are on their way must have come. */
  #syncAtMs: number | null = null;
  #pagesByMs: number | null = null;
  /** A page began too late, and nothing has come since that did not. */
  #isHoleKnown = false;
  #ackAtMs = 0;
  /** Whom the application watches, and whether anybody is at this device: each connection is told anew. */
  #watched: readonly Id[] = [];
  #isAway = false;
  #owesWatch = false;
  #owesAway = false;
  /** Requests that the server could not read, among those in flight; their refusals do not say which. */
  #unreadable = 0;
  /** What has to survive a restart: how often it changed, and up to which change it was given out and stored. */
  #version = 0;
  #savingVersion = 0;
  #storedVersion = 0;

  constructor(options: MachineOptions, random: Random) {
    this.#options = options;
    this.#random = random;
    this.#backoff = new Backoff(options.backoffFirstMs, options.backoffMaxMs);
    this.#outbox = new Outbox({ requests: options.outboxRequests, bytes: options.outboxBytes });
    this.#queries = new Queries(options.queries, options.queryTimeoutMs);
    this.#inbox = new Inbox(options.kept.cursor, options.inboxEntries);
    for (const frame of options.kept.outbox) this.#outbox.restore(frame, 0);
  }

  // What the application asks for.

  /** Connects now: at first, instead of later, or again after the end. Without effect while there is a connection. */
  connect(nowMs: number): void {
    this.#advance(nowMs);
    if (this.#state.name === "idle" || this.#state.name === "waiting" || this.#state.name === "ended") this.#connect();
  }

  /** The network, the user or the machine came back: connects if it waits for that, else asks who is there. */
  hurry(nowMs: number): void {
    this.#advance(nowMs);
    if (this.#state.name === "waiting") this.#connect();
    else if (this.#state.name === "open") this.#isBeatDue = true;
  }

  close(nowMs: number): void {
    this.#advance(nowMs);
    if (this.#state.name !== "ended") this.#lose({ kind: "local" }, "never");
  }

  /** Whose presence is to be told, on this connection and those to come; the last list counts. */
  watch(users: readonly Id[]): void {
    this.#watched = users;
    this.#owesWatch = true;
  }

  /** Nobody is at this device, or somebody again. */
  setAway(isAway: boolean): void {
    if (isAway === this.#isAway) return;
    this.#isAway = isAway;
    this.#owesAway = true;
  }

  /** The application's handler failed. */
  fail(nowMs: number, error: unknown): void {
    this.#advance(nowMs);
    if (this.#state.name !== "ended") this.#lose({ kind: "handlerFailed", error }, "never");
  }

  /** Puts a request into the outbox; gives its `clientId`. */
  request(frame: NamedFrame): string {
    this.#outbox.push(frame, this.#version + 1);
    this.#version += 1;
    return clientIdOf(frame);
  }

  /** Asks something; gives the id by which the answer is told. */
  query(frame: QueryFrame): number {
    return this.#queries.push(frame);
  }

  /** Says something that is worth nothing later: only while there is a connection. */
  say(frame: ClientFrame): void {
    if (this.#state.name === "open") this.#out.push(frame);
  }

  /** The application is done with everything up to `rev`. */
  handled(rev: Id): void {
    const before = this.#inbox.handled;
    this.#inbox.handle(rev);
    if (this.#inbox.handled !== before) this.#version += 1;
  }

  /** Forgets how far this device is: the server's inbox is another one. Only without a connection. */
  startOver(): void {
    if (this.#state.name !== "ended" && this.#state.name !== "idle") throw new Error("close the client before it starts over");
    this.#inbox = new Inbox("0", this.#options.inboxEntries);
    this.#version += 1;
  }

  // What others ask of it.

  /** The last entry that has come. */
  get cursor(): Id | null {
    return this.#inbox.cursor;
  }

  get outbox(): readonly NamedFrame[] {
    return this.#outbox.frames();
  }

  get messageBytesMax(): number {
    return this.#messageBytesMax;
  }

  // What happens to the connection, the storage, and time.

  /** The WebSocket is open. `isTokenFresh`: the token has never been good yet; there is no sense in another one. */
  handleOpen(nowMs: number, token: string, isTokenFresh: boolean): void {
    this.#advance(nowMs);
    if (this.#state.name !== "connecting") return;
    this.#isTokenFresh = isTokenFresh;
    this.#state = { name: "greeting", deadlineMs: this.#state.deadlineMs };
    const hello = { token, device: this.#options.device, everyEntry: !this.#options.takesSnapshots };
    // What is stored, not what has come: a server may take this for an `ack`. What comes twice by it is dropped.
    const isNew = this.#inbox.cursor === null;
    this.#out.push({ hello: isNew ? hello : { ...hello, cursor: this.#inbox.stored } });
  }

  handleMessage(nowMs: number, text: string): void {
    this.#advance(nowMs);
    if (this.#state.name !== "greeting" && this.#state.name !== "open") return;
    if (this.#state.name === "open") this.#state.heartbeat.hear(this.#nowMs);
    try {
      this.#handleFrame(parseServerFrame(text));
    } catch (error) {
      if (!(error instanceof FrameError)) throw error;
      this.#breakOff(error.message);
    }
  }

  /** The WebSocket is closed, or could not be opened. */
  handleClose(nowMs: number, code: number, reason: string): void {
    this.#advance(nowMs);
    const { name } = this.#state;
    if (name !== "connecting" && name !== "greeting" && name !== "open") return;
    const why: Lost = { kind: "closed", code, reason, error: this.#lastError };
    const isRefused = code === 4000 || code === 4001;
    if (isRefused && this.#options.canRenewToken && (name === "open" || !this.#isTokenFresh)) {
      this.#isTokenRefused = true;
      this.#lose(why, "atOnce", false);
    } else {
      this.#lose(why, afterClose(code), false);
    }
  }

  /** What `pollSave` gave is stored. With `isStored` false it could not be: then requests go out all the same, for
   *  waiting would not save them, but nothing is acknowledged. */
  handleSaved({ version, kept }: Save, isStored: boolean): void {
    this.#storedVersion = Math.max(this.#storedVersion, version);
    if (isStored && kept.cursor !== null) this.#inbox.store(kept.cursor);
  }

  handleTimeout(nowMs: number): void {
    this.#advance(nowMs);
    const state = this.#state;
    if (state.name === "waiting" && this.#nowMs >= state.atMs) this.#connect();
    if ((state.name === "connecting" || state.name === "greeting") && this.#nowMs >= state.deadlineMs) {
      this.#lose({ kind: "connectTimeout" }, "afterDelay");
    }
    if (state.name !== "open") return;
    const due = state.heartbeat.due(this.#nowMs);
    if (due === "dead") return this.#lose({ kind: "silent" }, "atOnce");
    if (due === "beat") this.#isBeatDue = true;
    if (this.#pagesByMs !== null && this.#nowMs >= this.#pagesByMs) {
      return this.#breakOff("the next page did not come in time");
    }
    this.#settle(this.#queries.due(this.#nowMs));
  }

  // What is to be done next.

  /** The next frame for the WebSocket. */
  pollTransmit(nowMs: number): string | null {
    this.#advance(nowMs);
    const frame = this.#out.shift() ?? (this.#state.name === "open" ? this.#nextFrame(this.#state) : null);
    if (frame === null) return null;
    if (this.#state.name === "open") this.#state.heartbeat.speak(this.#nowMs);
    return JSON.stringify(frame);
  }

  /** What is to be stored; then `handleSaved` is to be called. */
  pollSave(): Save | null {
    if (this.#savingVersion === this.#version) return null;
    this.#savingVersion = this.#version;
    const cursor = this.#inbox.cursor === null ? null : this.#inbox.handled;
    return { version: this.#version, kept: { cursor, outbox: this.#outbox.frames() } };
  }

  /** Entries for the application, in order, or a snapshot; when it is done with them, `handled` is to be called. */
  pollBatch(): Batch | null {
    const waiting = this.#inbox.takeWaiting();
    if (this.#inbox.endCongestion()) this.#syncAtMs = this.#nowMs;
    return waiting;
  }

  pollEvent(): MachineEvent | null {
    return this.#events.shift() ?? null;
  }

  /** When `handleTimeout` is to be called; `null`: no need. */
  pollTimeout(): number | null {
    const state = this.#state;
    switch (state.name) {
      case "idle":
      case "ended":
        return null;
      case "waiting":
        return state.atMs;
      case "connecting":
      case "greeting":
        return state.deadlineMs;
      case "open": {
        let nextMs = Math.min(state.heartbeat.nextMs(), this.#queries.nextMs());
        nextMs = Math.min(nextMs, this.#pagesByMs ?? Infinity);
        if (!this.#inbox.isCongested) nextMs = Math.min(nextMs, this.#syncAtMs ?? Infinity);
        if (this.#inbox.untold() !== null) nextMs = Math.min(nextMs, this.#ackAtMs);
        if (this.#unreadable === 0) {
          if (this.#owesWatch || this.#owesAway) nextMs = Math.min(nextMs, state.queryPace.nextMs(this.#nowMs));
          if (this.#queries.next() !== null) nextMs = Math.min(nextMs, state.queryPace.nextMs(this.#nowMs));
          const request = this.#outbox.next(state.user, this.#storedVersion);
          if (request !== null) nextMs = Math.min(nextMs, state.sendPace.nextMs(this.#nowMs));
        }
        return nextMs;
      }
    }
  }

  // Frames from the server.

  #handleFrame(frame: ServerFrame): void {
    const state = this.#state;
    switch (frame.kind) {
      case "error":
        return this.#handleError(frame.error);
      case "drain":
        this.#backoff.comeBackAt(this.#nowMs + frame.afterMs);
        this.#nextUrl = this.#safeUrl(frame.to);
        return;
      case "other":
        this.#events.push({ kind: "other", name: frame.name, content: frame.content });
        return;
      case "welcome":
        if (state.name === "open") return this.#breakOff("a second `welcome`");
        return this.#handleWelcome(frame.welcome);
      default:
    }
    if (state.name !== "open") return this.#breakOff(`\`${frame.kind}\` before \`welcome\``);
    switch (frame.kind) {
      case "event":
        if (this.#inbox.take(frame.event) === "missed" && !this.#isSyncing()) this.#syncAtMs = this.#nowMs;
        return;
      case "page":
        return this.#handlePage(frame.events, frame.isLive);
      case "gap":
        this.#syncAtMs = this.#nowMs;
        this.#events.push({ kind: "gap" });
        return;
      case "accepted":
        if (!this.#outbox.remove(frame.accepted.clientId)) return;
        this.#version += 1;
        this.#events.push({ kind: "accepted", accepted: frame.accepted });
        return this.#findUnreadable();
      case "snapshot":
        if (!this.#options.takesSnapshots) return this.#breakOff("a snapshot, though every entry was asked for");
        this.#inbox.takeSnapshot(frame.part);
        if (this.#pagesByMs !== null) this.#pagesByMs = this.#pageDeadline();
        return;
      case "receipts":
        this.#events.push({ kind: "receipts", receipts: frame.receipts });
        return this.#settle(this.#queries.answer(frame, state.user));
      case "history":
      case "conversations":
      case "group":
      case "devices":
        return this.#settle(this.#queries.answer(frame, state.user));
      case "people":
        if (frame.people.changed) this.#events.push({ kind: "people", people: frame.people });
        return this.#settle(this.#queries.answer(frame, state.user));
      case "typing":
        this.#events.push({ kind: "typing", typing: frame.typing });
        return;
      case "presence":
        this.#events.push({ kind: "presence", users: frame.users });
        return;
      case "pong":
    }
  }

  #handleWelcome(welcome: Welcome): void {
    const nowMs = this.#nowMs;
    const { limits, user, head } = welcome;
    this.#state = {
      name: "open",
      sinceMs: nowMs,
      user,
      heartbeat: new Heartbeat(welcome.heartbeatMs, nowMs),
      sendPace: new Pace(limits.sendPerSecond, limits.sendBurst, nowMs),
      queryPace: new Pace(QUERIES_PER_SECOND, QUERIES_BURST, nowMs),
    };
    if (limits.messageBytes > 0) this.#messageBytesMax = limits.messageBytes;
    this.#inbox.begin(welcome.cursor);
    const cursor = this.#inbox.cursor ?? welcome.cursor;
    // What was told on the last connection may not have arrived.
    this.#inbox.tellAgain();
    this.#ackAtMs = nowMs;
    this.#tellPresenceAgain();
    this.#events.push({ kind: "state", state: { name: "open" } }, { kind: "welcome", welcome });
    // The server goes on from its own idea of the cursor; where that is too far, it is told so.
    if (compareIds(welcome.cursor, cursor) > 0) this.#syncAtMs = nowMs;
    if (welcome.cursor !== head) this.#pagesByMs = this.#pageDeadline();
    if (!this.#isSyncing()) this.#events.push({ kind: "live", rev: cursor });
  }

  #handlePage(events: readonly InboxEntry[], isLive: boolean): void {
    for (const event of events) {
      if (this.#inbox.take(event) === "missed") {
        // The rest of an answer to another idea of the cursor. The answer to the `sync` that is sent now, or was sent
        // already, begins where it should; if it never comes, the deadline ends it.
        if (this.#syncAtMs === null && !this.#isHoleKnown) {
          this.#syncAtMs = this.#nowMs;
          this.#isHoleKnown = true;
        }
        return;
      }
      this.#isHoleKnown = false;
    }
    if (isLive && this.#syncAtMs === null) {
      this.#pagesByMs = null;
      if (!this.#inbox.isCongested) this.#events.push({ kind: "live", rev: this.#inbox.cursor ?? "0" });
    } else if (this.#pagesByMs !== null && events.length > 0) {
      this.#pagesByMs = this.#pageDeadline();
    }
  }

  #handleError({ code, message, retryAfterMs, clientId }: ServerError): void {
    this.#lastError = { code, message };
    const retryAtMs = this.#nowMs + (retryAfterMs > 0 ? retryAfterMs : RETRY_MS);
    // Should the server close now, that is when to come back.
    if (retryAfterMs > 0) this.#backoff.notBefore(retryAtMs);
    if (this.#state.name !== "open") return;
    const { sendPace, queryPace } = this.#state;
    if (clientId !== "") {
      if (isPassing(code)) {
        if (this.#outbox.sendAgain(clientId)) sendPace.pauseUntil(retryAtMs);
      } else {
        this.#reject(clientId, new RequestError(code, message));
      }
      return this.#findUnreadable();
    }
    // It does not say what it refuses.
    if (isPassing(code)) {
      this.#inbox.tellAgain();
      this.#ackAtMs = Math.max(this.#ackAtMs, retryAtMs);
      if (this.#isSyncing()) this.#syncAtMs = retryAtMs;
      this.#queries.sendAgain();
      this.#tellPresenceAgain();
      queryPace.pauseUntil(retryAtMs);
    } else if (code === "bad_frame") {
      this.#unreadable += 1;
      this.#findUnreadable();
    } else if (code !== "cursor_ahead") {
      this.#settle(this.#queries.fail(new RequestError(code, message)));
    }
    this.#events.push({ kind: "refused", refused: { code, message } });
  }

  /** As many requests as could not be read will never be answered: when no others are left, it was those. Until then
   *  nothing new is asked. So one that no server understands cannot hold up what comes after it. */
  #findUnreadable(): void {
    if (this.#unreadable === 0) return;
    const requests = this.#outbox.inFlight();
    if (requests.length + (this.#queries.isInFlight ? 1 : 0) > this.#unreadable) return;
    this.#unreadable = 0;
    const error = () => new RequestError("bad_frame", this.#lastError?.message ?? "the server cannot read it");
    for (const clientId of requests) this.#reject(clientId, error());
    this.#settle(this.#queries.fail(error()));
  }

  #reject(clientId: string, error: RequestError): void {
    if (!this.#outbox.remove(clientId)) return;
    this.#version += 1;
    this.#events.push({ kind: "rejected", clientId, error });
  }

  #settle(settled: Answered | Failed | null): void {
    if (settled === null) return;
    if ("error" in settled) this.#events.push({ kind: "failed", ...settled });
    else this.#events.push({ kind: "answered", ...settled });
    this.#findUnreadable();
  }

  // Frames to the server.

  #nextFrame(state: Open): ClientFrame | null {
    const nowMs = this.#nowMs;
    if (this.#syncAtMs !== null && this.#syncAtMs <= nowMs && !this.#inbox.isCongested) {
      this.#syncAtMs = null;
      this.#pagesByMs = this.#pageDeadline();
      return { sync: { after: this.#inbox.cursor ?? "0", limit: 0, everyEntry: !this.#options.takesSnapshots } };
    }
    const rev = this.#inbox.untold();
    if (rev !== null && this.#ackAtMs <= nowMs) {
      this.#inbox.tell(rev);
      this.#ackAtMs = nowMs + this.#options.ackIntervalMs;
      return { ack: { rev } };
    }
    if (this.#unreadable === 0) {
      if ((this.#owesWatch || this.#owesAway) && state.queryPace.take(nowMs)) return this.#presenceFrame();
      const query = this.#queries.next();
      if (query !== null && state.queryPace.take(nowMs)) {
        this.#queries.markSent(nowMs);
        return query;
      }
      const request = this.#outbox.next(state.user, this.#storedVersion);
      if (request !== null && state.sendPace.take(nowMs)) {
        this.#outbox.markSent(request);
        return request;
      }
    }
    if (this.#isBeatDue) {
      this.#isBeatDue = false;
      state.heartbeat.ask(nowMs);
      return { ping: { nonce: "0" } };
    }
    return null;
  }

  #tellPresenceAgain(): void {
    this.#owesWatch = this.#watched.length > 0;
    this.#owesAway = this.#isAway;
  }

  #presenceFrame(): ClientFrame {
    if (this.#owesWatch) {
      this.#owesWatch = false;
      return { watchPresence: { users: this.#watched } };
    }
    this.#owesAway = false;
    return { setAway: { away: this.#isAway } };
  }

  #isSyncing(): boolean {
    return this.#syncAtMs !== null || this.#pagesByMs !== null;
  }

  #pageDeadline(): number {
    return this.#nowMs + this.#options.connectTimeoutMs;
  }

  // The end of a connection, and the next.

  /** The server does not keep to the protocol. */
  #breakOff(message: string): void {
    this.#lose({ kind: "protocol", message }, "afterDelay");
  }

  #lose(why: Lost, reconnect: Reconnect, isUp = true): void {
    const state = this.#state;
    if (isUp && (state.name === "connecting" || state.name === "greeting" || state.name === "open")) {
      this.#events.push({ kind: "disconnect" });
    }
    const lastedMs = state.name === "open" ? this.#nowMs - state.sinceMs : null;
    const atMs = this.#backoff.next(this.#nowMs, lastedMs, reconnect, this.#random);
    this.#forgetConnection();
    if (atMs === null) {
      this.#state = { name: "ended" };
      this.#events.push({ kind: "state", state: { name: "ended", why } });
    } else {
      this.#state = { name: "waiting", atMs };
      const { failures } = this.#backoff;
      this.#events.push({ kind: "state", state: { name: "waiting", retryAtMs: atMs, failures, why } });
    }
  }

  #forgetConnection(): void {
    this.#out = [];
    this.#isBeatDue = false;
    this.#lastError = null;
    this.#syncAtMs = null;
    this.#pagesByMs = null;
    this.#isHoleKnown = false;
    this.#unreadable = 0;
    this.#outbox.beginAgain();
    this.#queries.sendAgain();
  }

  #connect(): void {
    this.#state = { name: "connecting", deadlineMs: this.#nowMs + this.#options.connectTimeoutMs };
    const url = this.#nextUrl ?? this.#options.url;
    this.#nextUrl = null;
    this.#events.push({ kind: "state", state: { name: "connecting" } });
    this.#events.push({ kind: "connect", url, isTokenRefused: this.#isTokenRefused });
    this.#isTokenRefused = false;
  }

  /** Another server is believed if the token is as safe on the way there. */
  #safeUrl(to: string): string | null {
    if (to.startsWith("wss://")) return to;
    return to.startsWith("ws://") && this.#options.url.startsWith("ws://") ? to : null;
  }

  /** Time does not go back, whatever the clock does. */
  #advance(nowMs: number): void {
    this.#nowMs = Math.max(this.#nowMs, nowMs);
  }
}

