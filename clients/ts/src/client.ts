/**
 * The client: a {@link Machine} with a WebSocket, timers, a store and the application around it.
 *
 * A method whose request is answered gives a promise. It throws at once when the request was not taken (`outbox_full`
 * and what is wrong on the face of it), so that nothing is lost by a promise that nobody looks at; the promise is
 * rejected when the server refuses the request. Requests with a `clientId` are kept over reconnects and, with a store,
 * over restarts; then the answer is told by the events `accepted` and `rejected` alone.
 */

import { checkClientId, checkContent, checkConversation, checkDays, checkLimit, checkText } from "./checks.ts";
import { platform, type Environment, type Socket } from "./environment.ts";
import { RequestError, type Refused } from "./errors.ts";
import {
  SUBPROTOCOL,
  type Accepted,
  type Audience,
  type Conversations,
  type DeviceState,
  type GroupState,
  type History,
  type NamedFrame,
  type People,
  type Receipts,
  type UserPresence,
  type UserTyping,
  type Welcome,
} from "./frames.ts";
import { toId, type Id, type IdInput } from "./ids.ts";
import { Machine, type ConnectionState, type Kept, type MachineEvent } from "./machine.ts";
import type { Content, InboxEntry, Role, Snapshot } from "./messages.ts";
import type { Answer } from "./queries.ts";
import type { Store } from "./store.ts";

export interface ClientOptions {
  /** Where the server is: `wss://chat.example/ws`. */
  readonly url: string;
  /** Who the user is: a token, or what gets one. The latter is asked again when the server refuses the token. */
  readonly token: string | (() => string | Promise<string>);
  /** The device's name; may be left out when the token names it. */
  readonly device?: string;
  /**
   * Takes inbox entries, each once and in the order of `rev`. The next ones come when it has returned, or when its
   * promise is kept; they are acknowledged then. If it fails, the client ends: what was not taken comes again.
   */
  readonly onEntries: (entries: readonly InboxEntry[]) => void | Promise<void>;
  /**
   * Takes the user's conversations as they are at a `rev`, in the place of what the application has of them and of very
   * many entries that it has not. Like entries, in their order. Without this, every entry comes.
   */
  readonly onSnapshot?: (snapshot: Snapshot) => void | Promise<void>;
  /** `manually`: entries are acknowledged when the application says so, with {@link Client.ack}. */
  readonly acknowledge?: "automatically" | "manually";
  /** Keeps how far this device is, and what was not accepted yet, over restarts. */
  readonly store?: Store;
  /** How far this device is, for an application that keeps that itself, with its messages. */
  readonly cursor?: IdInput;
  readonly connectTimeoutMs?: number;
  readonly backoffFirstMs?: number;
  readonly backoffMaxMs?: number;
  readonly ackIntervalMs?: number;
  readonly queryTimeoutMs?: number;
  readonly outboxRequests?: number;
  readonly outboxBytes?: number;
  readonly queries?: number;
  readonly inboxEntries?: number;
  readonly environment?: Environment;
}

/** What a client tells, by name. */
export interface ClientEvents {
  /** The connection came or went. `retryAtMs` is a time of day. */
  readonly state: ConnectionState;
  readonly welcome: Welcome;
  /** Everything there is has come; from here on entries come as they happen. */
  readonly live: { readonly rev: Id };
  /** Notes about who is writing and who has read may have been lost: ask again for what matters. */
  readonly gap: Record<string, never>;
  readonly accepted: Accepted;
  readonly rejected: { readonly clientId: string; readonly error: RequestError };
  /** Who has read: as it happens, and every answer to `receipts` and `read`. */
  readonly receipts: Receipts;
  readonly typing: UserTyping;
  /** What others are to the user has changed, or who may see the user; perhaps on another device. */
  readonly people: People;
  /** How it is with some of the watched users, now. */
  readonly presence: readonly UserPresence[];
  /** The server refused something, without saying which request. */
  readonly refused: Refused;
  /** A frame that this version does not know. */
  readonly other: { readonly name: string; readonly content: unknown };
  /** The store failed; requests go out all the same, but nothing is acknowledged until it works again. */
  readonly storeFailed: { readonly error: unknown };
}

export interface RequestOptions {
  /** The request's own name, 1 to 64 bytes; else one is drawn. */
  readonly clientId?: string;
}

export interface SendOptions extends RequestOptions {
  /** The `seq` of the message that this one answers. */
  readonly replyTo?: IdInput;
}

interface Settle<Answer> {
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: RequestError) => void;
}

export class Client {
  readonly #options: ClientOptions;
  readonly #environment: Environment;
  readonly #machine: Machine;
  readonly #listeners = new Map<string, Set<(event: never) => void>>();
  readonly #requests = new Map<string, Settle<Accepted>>();
  readonly #queries = new Map<number, Settle<Answer>[]>();
  #state: ConnectionState = { name: "idle" };
  #socket: Socket | null = null;
  #token: string | null;
  /** It has not been good yet. */
  #isTokenFresh = true;
  /** Counts connections, so that what is heard late from an older one is not taken for the present one's. */
  #attempt = 0;
  #inboxAge = 0;
  #stopTimer: () => void = () => {};
  #isPumping = false;
  #isStirred = false;
  #handling: Promise<void> | null = null;
  #saving: Promise<void> | null = null;

  /** A client that knows what its store has kept. It does nothing before {@link connect}. */
  static async open(options: ClientOptions): Promise<Client> {
    const { protocol } = new URL(options.url);
    if (protocol !== "ws:" && protocol !== "wss:") {
      throw new TypeError(`a WebSocket's URL begins with wss: or ws:, not ${protocol}`);
    }
    const kept = (await options.store?.load()) ?? { cursor: null, outbox: [] };
    return new Client(options, options.cursor === undefined ? kept : { ...kept, cursor: toId(options.cursor, "cursor") });
  }

  private constructor(options: ClientOptions, kept: Kept) {
    this.#options = options;
    this.#environment = options.environment ?? platform;
    this.#token = typeof options.token === "string" ? options.token : null;
    const machineOptions = {
      url: options.url,
      device: options.device ?? "",
      canRenewToken: typeof options.token === "function",
      takesSnapshots: options.onSnapshot !== undefined,
      kept,
      connectTimeoutMs: options.connectTimeoutMs ?? 15_000,
      backoffFirstMs: options.backoffFirstMs ?? 1_000,
      backoffMaxMs: options.backoffMaxMs ?? 60_000,
      ackIntervalMs: options.ackIntervalMs ?? 1_000,
      queryTimeoutMs: options.queryTimeoutMs ?? 15_000,
      outboxRequests: options.outboxRequests ?? 1_000,
      outboxBytes: options.outboxBytes ?? 4 << 20,
      queries: options.queries ?? 100,
      inboxEntries: options.inboxEntries ?? 10_000,
    };
    this.#machine = new Machine(machineOptions, this.#environment.random);
  }

  // The connection.

  get state(): ConnectionState {
    return this.#state;
  }

  /** The last entry that has come; `null`: a new device that was never welcomed. */
  get cursor(): Id | null {
    return this.#machine.cursor;
  }

  /** What the server allows a body to have. */
  get messageBytesMax(): number {
    return this.#machine.messageBytesMax;
  }

  /** Requests that wait to be accepted, also those of before a restart. */
  get outbox(): readonly NamedFrame[] {
    return this.#machine.outbox;
  }

  /** Calls `listener` for every event of this name; gives what stops that. */
  on<Name extends keyof ClientEvents>(name: Name, listener: (event: ClientEvents[Name]) => void): () => void {
    const listeners = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, listeners);
    listeners.add(listener);
    return () => listeners.delete(listener);
  }

  /** Connects, now, and from here on again whenever the connection breaks. Also after the end, perhaps with another
   *  token if the old one was the reason. */
  connect(token?: string): void {
    if (token !== undefined) {
      this.#token = token;
      this.#isTokenFresh = true;
    }
    this.#machine.connect(this.#environment.nowMs());
    this.#pump();
  }

  /** The network, the user or the machine came back: does not wait any longer, or asks whether the server is there. */
  hurry(): void {
    this.#machine.hurry(this.#environment.nowMs());
    this.#pump();
  }

  /** Ends the connection. What waits for an answer fails with `closed`; what is in the outbox stays there, and in the
   *  store. The promise is kept when handler and store are done. */
  async close(): Promise<void> {
    this.#machine.close(this.#environment.nowMs());
    this.#pump();
    const error = new RequestError("closed", "the client was closed before the answer came");
    for (const { reject } of [...this.#requests.values(), ...[...this.#queries.values()].flat()]) reject(error);
    this.#requests.clear();
    this.#queries.clear();
    while (this.#handling ?? this.#saving) await (this.#handling ?? this.#saving);
  }

  /** Forgets how far this device is, after the end: the server said `cursor_ahead`, so its inbox is another one. */
  startOver(): void {
    this.#machine.startOver();
    this.#inboxAge += 1;
    this.#pump();
  }

  /** Everything up to `rev` is stored. Only with `acknowledge: "manually"`. */
  ack(rev: IdInput): void {
    this.#machine.handled(toId(rev, "rev"));
    this.#pump();
  }

  // Requests with a name.

  /** Sends a message; a text may be given as it is. The promise is kept when the message is durable. */
  send(conversation: string, body: Content | string, options: SendOptions = {}): Promise<Accepted> {
    const content = this.#content(body);
    const head = { ...this.#head(conversation, options), body: content };
    const { replyTo } = options;
    return this.#request({ send: replyTo === undefined ? head : { ...head, replyTo: toId(replyTo, "replyTo") } });
  }

  /** Replaces what a message of one's own says. */
  edit(conversation: string, seq: IdInput, content: Content | string, options: RequestOptions = {}): Promise<Accepted> {
    const head = this.#head(conversation, options);
    return this.#request({ edit: { ...head, seq: toId(seq, "seq"), content: this.#content(content) } });
  }

  /** Takes a message back. */
  delete(conversation: string, seq: IdInput, options: RequestOptions = {}): Promise<Accepted> {
    return this.#request({ delete: { ...this.#head(conversation, options), seq: toId(seq, "seq") } });
  }

  /** Makes a group; `conversation` of the answer names it. */
  createGroup(
    title: string,
    members: readonly IdInput[],
    options: RequestOptions & { readonly openHistory?: boolean } = {},
  ): Promise<Accepted> {
    const users = members.map((user) => toId(user, "member"));
    const clientId = this.#clientId(options);
    const { openHistory = false } = options;
    return this.#request({ createGroup: { clientId, title: checkText(title), members: users, openHistory } });
  }

  addMembers(conversation: string, users: readonly IdInput[], options: RequestOptions = {}): Promise<Accepted> {
    const head = this.#head(conversation, options);
    return this.#request({ addMembers: { ...head, users: users.map((user) => toId(user, "user")) } });
  }

  removeMember(conversation: string, user: IdInput, options: RequestOptions = {}): Promise<Accepted> {
    return this.#request({ removeMember: { ...this.#head(conversation, options), user: toId(user, "user") } });
  }

  leave(conversation: string, options: RequestOptions = {}): Promise<Accepted> {
    return this.#request({ leave: this.#head(conversation, options) });
  }

  rename(conversation: string, title: string, options: RequestOptions = {}): Promise<Accepted> {
    return this.#request({ rename: { ...this.#head(conversation, options), title: checkText(title) } });
  }

  setRole(conversation: string, user: IdInput, role: Role, options: RequestOptions = {}): Promise<Accepted> {
    return this.#request({ setRole: { ...this.#head(conversation, options), user: toId(user, "user"), role } });
  }

  /** For how many days a group keeps what is written in it; 0: as long as the server keeps everything. */
  setRetention(conversation: string, days: number, options: RequestOptions = {}): Promise<Accepted> {
    return this.#request({ setRetention: { ...this.#head(conversation, options), days: checkDays(days) } });
  }

  // Queries.

  /** A part of a conversation: the last messages before a `seq`, the first after one, or the last of all. */
  history(
    conversation: string,
    range: { readonly before?: IdInput; readonly after?: IdInput; readonly limit?: number } = {},
  ): Promise<History> {
    const { before, after, limit = 0 } = range;
    if (before !== undefined && after !== undefined) throw new RangeError("either before or after, not both");
    const head = { conversation: checkConversation(conversation), limit: checkLimit(limit) };
    const from = before !== undefined ? { before: toId(before, "before") } : {};
    const to = after !== undefined ? { after: toId(after, "after") } : {};
    return this.#query({ history: { ...head, ...from, ...to } }) as Promise<History>;
  }

  /** How far everybody in a conversation has read. */
  receipts(conversation: string): Promise<Receipts> {
    return this.#query({ receipts: { conversation: checkConversation(conversation) } }) as Promise<Receipts>;
  }

  /** The user has read up to this `seq`; the promise is kept when that is durable. */
  read(conversation: string, upTo: IdInput): Promise<Receipts> {
    const read = { conversation: checkConversation(conversation), upTo: toId(upTo, "upTo") };
    return this.#query({ read }) as Promise<Receipts>;
  }

  /** The user's conversations, as many at once as the server likes, behind that of this name. */
  conversations(options: { readonly after?: string; readonly limit?: number } = {}): Promise<Conversations> {
    const { after = "", limit = 0 } = options;
    if (after !== "") checkConversation(after);
    return this.#query({ conversations: { after, limit: checkLimit(limit) } }) as Promise<Conversations>;
  }

  /** What a group is called, and who is in it. */
  group(conversation: string): Promise<GroupState> {
    return this.#query({ group: { conversation: checkConversation(conversation) } }) as Promise<GroupState>;
  }

  /** Which devices the user has. */
  devices(): Promise<readonly DeviceState[]> {
    return this.#query({ devices: {} }) as Promise<readonly DeviceState[]>;
  }

  /** Shuts a device out: its session is closed, and tokens made until now are worthless on it. Those that are left. */
  revokeDevice(device: string): Promise<readonly DeviceState[]> {
    return this.#query({ revokeDevice: { device } }) as Promise<readonly DeviceState[]>;
  }

  /** The contacts, and those who are blocked: those with ids greater than `after`. */
  people({ after = "0", limit = 0 }: { readonly after?: IdInput; readonly limit?: number } = {}): Promise<People> {
    const people = { after: toId(after, "after"), limit: checkLimit(limit, 1_000) };
    return this.#query({ people }) as Promise<People>;
  }

  /** Nothing passes any more between the user and this one, who cannot tell; settles once it is durable. */
  block(user: IdInput): Promise<People> {
    return this.#query({ block: { user: toId(user, "user") } }) as Promise<People>;
  }

  /** Takes a block back. What was written meanwhile stays hidden. */
  unblock(user: IdInput): Promise<People> {
    return this.#query({ unblock: { user: toId(user, "user") } }) as Promise<People>;
  }

  /** Counts a user among the contacts, or not any more. */
  setContact(user: IdInput, contact: boolean): Promise<People> {
    return this.#query({ setContact: { user: toId(user, "user"), contact } }) as Promise<People>;
  }

  /** Who may see the user's presence. */
  setPrivacy(presence: Audience): Promise<People> {
    return this.#query({ setPrivacy: { presence } }) as Promise<People>;
  }

  /** The user is writing, or not any more; to be said every 3 s while that goes on. Without a connection it is not. */
  typing(conversation: string, stopped = false): void {
    this.#machine.say({ typing: { conversation: checkConversation(conversation), stopped } });
    this.#pump();
  }

  /** Whose presence is to be told from now on: `presence` with each of them, then as it changes. Watch whom the view
   *  shows; connections to come are told too. */
  watchPresence(users: readonly IdInput[]): void {
    const ids = users.map((user) => toId(user, "users"));
    if (new Set(ids).size !== ids.length) throw new TypeError("users: somebody stands there twice");
    this.#machine.watch(ids);
    this.#pump();
  }

  /** Nobody is at this device, or somebody is again. */
  setAway(away: boolean): void {
    this.#machine.setAway(away);
    this.#pump();
  }

  // What is inside.

  #clientId({ clientId }: RequestOptions): string {
    return clientId === undefined ? this.#environment.newName() : checkClientId(clientId);
  }

  #head(conversation: string, options: RequestOptions): { clientId: string; conversation: string } {
    return { clientId: this.#clientId(options), conversation: checkConversation(conversation) };
  }

  #content(content: Content | string): Content {
    return checkContent(typeof content === "string" ? { text: content } : content, this.#machine.messageBytesMax);
  }

  #request(frame: NamedFrame): Promise<Accepted> {
    const clientId = this.#machine.request(frame);
    const promise = new Promise<Accepted>((resolve, reject) => this.#requests.set(clientId, { resolve, reject }));
    return this.#begun(promise);
  }

  #query(frame: Parameters<Machine["query"]>[0]): Promise<Answer> {
    const id = this.#machine.query(frame);
    const promise = new Promise<Answer>((resolve, reject) => {
      this.#queries.set(id, [...(this.#queries.get(id) ?? []), { resolve, reject }]);
    });
    return this.#begun(promise);
  }

  #begun<Answer>(promise: Promise<Answer>): Promise<Answer> {
    // Whoever does not look at it hears of a refusal by an event; it must not end the process.
    promise.catch(() => {});
    this.#pump();
    return promise;
  }

  /** Does what the machine wants, until it wants nothing more; listeners that ask for more only make it go on. */
  #pump(): void {
    this.#isStirred = true;
    if (this.#isPumping) return;
    this.#isPumping = true;
    try {
      while (this.#isStirred) {
        this.#isStirred = false;
        this.#deliver();
        this.#save();
        for (let event = this.#machine.pollEvent(); event !== null; event = this.#machine.pollEvent()) this.#act(event);
        this.#transmit();
      }
    } finally {
      this.#isPumping = false;
    }
    this.#setTimer();
  }

  #setTimer(): void {
    this.#stopTimer();
    this.#stopTimer = () => {};
    const atMs = this.#machine.pollTimeout();
    if (atMs === null) return;
    // Rounded up: what comes too early would have to come again.
    this.#stopTimer = this.#environment.startTimer(Math.ceil(atMs - this.#environment.nowMs()), () => {
      this.#machine.handleTimeout(this.#environment.nowMs());
      this.#pump();
    });
  }

  #transmit(): void {
    const socket = this.#socket;
    if (socket === null) return;
    const nowMs = this.#environment.nowMs();
    for (let text = this.#machine.pollTransmit(nowMs); text !== null; text = this.#machine.pollTransmit(nowMs)) socket.send(text);
  }

  #deliver(): void {
    if (this.#handling !== null || this.#state.name === "ended") return;
    const batch = this.#machine.pollBatch();
    if (batch === null) return;
    const age = this.#inboxAge;
    const done = () => {
      if (this.#options.acknowledge !== "manually" && age === this.#inboxAge) this.#machine.handled(batch.rev);
    };
    const failed = (error: unknown) => this.#machine.fail(this.#environment.nowMs(), error);
    try {
      const promise = "entries" in batch ? this.#options.onEntries(batch.entries) : this.#options.onSnapshot?.(batch.snapshot);
      if (isPromise(promise)) {
        this.#handling = promise.then(done, failed).then(() => {
          this.#handling = null;
          this.#pump();
        });
        return;
      }
      done();
    } catch (error) {
      failed(error);
    }
    this.#isStirred = true;
  }

  #save(): void {
    if (this.#saving !== null) return;
    const save = this.#machine.pollSave();
    if (save === null) return;
    const done = () => this.#machine.handleSaved(save, true);
    const failed = (error: unknown) => {
      this.#machine.handleSaved(save, false);
      this.#emit("storeFailed", { error });
    };
    try {
      const promise = this.#options.store?.save(save.kept);
      if (isPromise(promise)) {
        this.#saving = promise.then(done, failed).then(() => {
          this.#saving = null;
          this.#pump();
        });
        return;
      }
      done();
    } catch (error) {
      failed(error);
    }
    this.#isStirred = true;
  }

  #act(event: MachineEvent): void {
    this.#isStirred = true;
    switch (event.kind) {
      case "connect":
        void this.#connect(event.url, event.isTokenRefused);
        break;
      case "disconnect":
        this.#attempt += 1;
        this.#socket?.close();
        this.#socket = null;
        break;
      case "state":
        this.#state = this.#withWallTime(event.state);
        this.#emit("state", this.#state);
        break;
      case "accepted":
        this.#requests.get(event.accepted.clientId)?.resolve(event.accepted);
        this.#requests.delete(event.accepted.clientId);
        this.#emit("accepted", event.accepted);
        break;
      case "rejected":
        this.#requests.get(event.clientId)?.reject(event.error);
        this.#requests.delete(event.clientId);
        this.#emit("rejected", { clientId: event.clientId, error: event.error });
        break;
      case "answered":
        for (const { resolve } of this.#queries.get(event.id) ?? []) resolve(event.answer);
        this.#queries.delete(event.id);
        break;
      case "failed":
        for (const { reject } of this.#queries.get(event.id) ?? []) reject(event.error);
        this.#queries.delete(event.id);
        break;
      case "welcome":
        this.#isTokenFresh = false;
        this.#emit("welcome", event.welcome);
        break;
      case "live":
        this.#emit("live", { rev: event.rev });
        break;
      case "gap":
        this.#emit("gap", {});
        break;
      case "receipts":
        this.#emit("receipts", event.receipts);
        break;
      case "people":
        this.#emit("people", event.people);
        break;
      case "typing":
        this.#emit("typing", event.typing);
        break;
      case "presence":
        this.#emit("presence", event.users);
        break;
      case "refused":
        this.#emit("refused", event.refused);
        break;
      case "other":
        this.#emit("other", { name: event.name, content: event.content });
        break;
    }
  }

  async #connect(url: string, isTokenRefused: boolean): Promise<void> {
    this.#attempt += 1;
    const attempt = this.#attempt;
    const isPresent = () => attempt === this.#attempt;
    const lost = (code: number, reason: string) => {
      if (!isPresent()) return;
      this.#socket = null;
      this.#machine.handleClose(this.#environment.nowMs(), code, reason);
      this.#pump();
    };
    try {
      const token = await this.#tokenAfter(isTokenRefused);
      if (!isPresent()) return;
      const socket = this.#environment.connect(url, SUBPROTOCOL, {
        onOpen: () => {
          if (!isPresent()) return;
          this.#socket = socket;
          this.#machine.handleOpen(this.#environment.nowMs(), token, this.#isTokenFresh);
          this.#pump();
        },
        onText: (text) => {
          if (!isPresent()) return;
          this.#machine.handleMessage(this.#environment.nowMs(), text);
          this.#pump();
        },
        onClose: lost,
      });
      this.#socket = socket;
    } catch (error) {
      // No token, or no such URL: as if the network had failed.
      lost(1006, String(error));
    }
  }

  async #tokenAfter(isRefused: boolean): Promise<string> {
    const { token: source } = this.#options;
    if (typeof source === "function" && isRefused) this.#token = null;
    if (this.#token === null) {
      if (typeof source === "string") return source;
      this.#token = await source();
      this.#isTokenFresh = true;
    }
    return this.#token;
  }

  #withWallTime(state: ConnectionState): ConnectionState {
    if (state.name !== "waiting") return state;
    const leftMs = Math.max(state.retryAtMs - this.#environment.nowMs(), 0);
    return { ...state, retryAtMs: this.#environment.wallMs() + leftMs };
  }

  #emit<Name extends keyof ClientEvents>(name: Name, event: ClientEvents[Name]): void {
    for (const listener of this.#listeners.get(name) ?? []) {
      try {
        (listener as (event: ClientEvents[Name]) => void)(event);
      } catch (error) {
        // The listener's own fault, reported as such; the client goes on.
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }
}

function isPromise(value: void | Promise<void> | undefined): value is Promise<void> {
  return typeof value === "object" && value !== null && "then" in value;
}
