/** A machine with a server that the test plays, and a clock that moves when the test says so. */

import type { Random } from "../src/backoff.ts";
import type { ClientFrame, NamedFrame } from "../src/frames.ts";
import { Machine, type Kept, type MachineEvent, type MachineOptions, type Save } from "../src/machine.ts";
import type { InboxEntry, Snapshot } from "../src/messages.ts";

export const USER = "42";

export function send(clientId: string, conversation = "@43"): NamedFrame {
  return { send: { clientId, conversation, body: { text: clientId } } };
}

/** An inbox entry as the server writes it. */
export function entry(rev: number): InboxEntry {
  const message = { conversation: "42:43", seq: String(rev), messageId: "1", sender: "43", clientId: `theirs ${rev}` };
  const whole = { ...message, device: "phone", timeMs: "0", body: { text: `text ${rev}` } };
  return { rev: String(rev), entry: { message: whole } };
}

export function entries(from: number, to: number): InboxEntry[] {
  return Array.from({ length: to - from + 1 }, (_, index) => entry(from + index));
}

export class Harness {
  readonly machine: Machine;
  nowMs = 1_000;
  /** What the machine has written since the test last looked. */
  #sent: ClientFrame[] = [];
  #events: MachineEvent[] = [];
  readonly revs: string[] = [];
  readonly snapshots: Snapshot[] = [];
  #isConnectWanted = false;
  /** The application is slow: it takes nothing. */
  isBusy = false;
  /** Told to store something: instead of at once, when the test says so. */
  isStoreSlow = false;
  saves: Save[] = [];

  constructor(options: Partial<MachineOptions> = {}, random: Random = () => 0) {
    const kept: Kept = { cursor: null, outbox: [] };
    const times = { connectTimeoutMs: 15_000, backoffFirstMs: 1_000, backoffMaxMs: 60_000, ackIntervalMs: 1_000 };
    const limits = { queryTimeoutMs: 15_000, outboxRequests: 1_000, outboxBytes: 1 << 20, queries: 100, inboxEntries: 10_000 };
    const whole = { url: "ws://server/ws", device: "phone", canRenewToken: false, takesSnapshots: false, kept, ...times, ...limits, ...options };
    this.machine = new Machine(whole, random);
  }

  /** A machine that has been welcomed. */
  static open(options: Partial<MachineOptions> = {}, random: Random = () => 0): Harness {
    const harness = new Harness(options, random);
    harness.connect();
    harness.welcome();
    harness.sent();
    harness.events();
    return harness;
  }

  connect(): void {
    this.machine.connect(this.nowMs);
    this.#run();
    this.opened();
  }

  /** Waits until the machine wants a connection again, and gives it one. */
  reconnect(): void {
    while (!this.#isConnectWanted) {
      const nextMs = this.machine.pollTimeout();
      if (nextMs === null) throw new Error("it does not come back");
      this.wait(Math.max(nextMs - this.nowMs, 0));
    }
    this.opened();
  }

  /** The WebSocket that the machine wants is there. */
  opened(isTokenFresh = false): void {
    this.#isConnectWanted = false;
    this.machine.handleOpen(this.nowMs, "token", isTokenFresh);
    this.#run();
  }

  welcome(changes: { cursor?: string; head?: string; limits?: object; heartbeatMs?: number } = {}): void {
    const limits = { messageBytes: 65_536, pageEntries: 1_000, sendPerSecond: 0, sendBurst: 0 };
    const cursor = changes.cursor ?? this.machine.cursor ?? "0";
    const whole = { session: "1", user: USER, device: "phone", heartbeatMs: 30_000, cursor, head: cursor, limits };
    this.give({ welcome: { ...whole, serverTimeMs: "0", ...changes } });
  }

  /** The server says something. */
  give(frame: object): void {
    this.machine.handleMessage(this.nowMs, JSON.stringify(frame));
    this.#run();
  }

  page(events: InboxEntry[], live: boolean): void {
    this.give({ page: { events, head: "0", live } });
  }

  accept(clientId: string): void {
    this.give({ accepted: { clientId, messageId: "7", seq: "1" } });
  }

  refuse(code: string, changes: { clientId?: string; retryAfterMs?: number } = {}): void {
    this.give({ error: { code, message: `${code}, says the server`, retryAfterMs: 0, clientId: "", ...changes } });
  }

  closed(code: number): void {
    this.machine.handleClose(this.nowMs, code, "");
    this.#run();
  }

  ask(act: (machine: Machine) => void): void {
    act(this.machine);
    this.#run();
  }

  /** Lets time pass, and wakes the machine whenever it wants that. */
  wait(durationMs: number): void {
    const endMs = this.nowMs + durationMs;
    for (let turns = 0; ; turns += 1) {
      const nextMs = this.machine.pollTimeout();
      if (nextMs === null || nextMs > endMs) break;
      if (turns > 10_000) throw new Error("it wants to be woken all the time");
      this.nowMs = Math.max(this.nowMs, nextMs);
      this.machine.handleTimeout(this.nowMs);
      this.#run();
    }
    this.nowMs = endMs;
  }

  stored(isStored = true): void {
    for (const save of this.saves.splice(0)) this.machine.handleSaved(save, isStored);
    this.#run();
  }

  /** What the machine has written since the last call. */
  sent(): ClientFrame[] {
    return this.#sent.splice(0);
  }

  /** The same, but only the names that the requests have. */
  names(): string[] {
    return this.sent().flatMap((frame) => Object.values(frame).flatMap((content) => ("clientId" in content ? [String(content.clientId)] : [])));
  }

  events(): MachineEvent[] {
    return this.#events.splice(0);
  }

  /** Events of one kind; others are dropped. */
  eventsOf<Kind extends MachineEvent["kind"]>(kind: Kind): Extract<MachineEvent, { kind: Kind }>[] {
    return this.events().filter((event): event is Extract<MachineEvent, { kind: Kind }> => event.kind === kind);
  }

  /** The delay before the next attempt, or null: none comes. */
  delayMs(): number | null {
    const [state] = this.eventsOf("state").slice(-1);
    return state?.state.name === "waiting" ? state.state.retryAtMs - this.nowMs : null;
  }

  #run(): void {
    for (let isIdle = false; !isIdle; ) {
      isIdle = true;
      const taken = this.isBusy ? null : this.machine.pollBatch();
      if (taken && "entries" in taken) for (const { rev } of taken.entries) this.revs.push(rev);
      if (taken && "snapshot" in taken) this.snapshots.push(taken.snapshot);
      if (taken) this.machine.handled(taken.rev);
      const save = this.machine.pollSave();
      if (save) this.saves.push(save);
      if (save && !this.isStoreSlow) for (const each of this.saves.splice(0)) this.machine.handleSaved(each, true);
      for (let event = this.machine.pollEvent(); event; event = this.machine.pollEvent()) {
        if (event.kind === "connect") this.#isConnectWanted = true;
        this.#events.push(event);
      }
      for (let text = this.machine.pollTransmit(this.nowMs); text; text = this.machine.pollTransmit(this.nowMs)) {
        this.#sent.push(JSON.parse(text) as ClientFrame);
        isIdle = false;
      }
      if (taken || save) isIdle = false;
    }
  }
}
