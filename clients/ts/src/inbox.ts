/**
 * The inbox as it arrives: every entry once, in the order of `rev`, whatever mixture of pages and events brings it; or
 * a snapshot in the place of very many.
 *
 * ```text
 *   told ≤ stored ≤ handled ≤ cursor
 *     │       │        │        └ has come, and waits for the application or is with it
 *     │       │        └ the application has said that it is done with it
 *     │       └ and that is written down: the next start, and the next connection, go on from here
 *     └ and the server knows
 * ```
 */

import { compareIds, maxId, nextId, type Id } from "./ids.ts";
import type { Conversations } from "./frames.ts";
import type { ConversationState, InboxEntry, Snapshot } from "./messages.ts";

/** What the application is given at once, in the order of `rev`. */
export type Batch =
  | { readonly entries: readonly InboxEntry[]; readonly rev: Id }
  | { readonly snapshot: Snapshot; readonly rev: Id };

export class Inbox {
  readonly #waitingMax: number;
  #waiting: InboxEntry[] = [];
  /** A snapshot that waits, before the entries that wait. */
  #snapshot: Snapshot | null = null;
  /** Parts of one that has not ended, by conversation. */
  #parts: { readonly rev: Id; readonly conversations: Map<string, ConversationState> } | null = null;
  #cursor: Id | null;
  #handled: Id;
  #stored: Id;
  #told: Id = "0";
  #isCongested = false;

  constructor(cursor: Id | null, waitingMax: number) {
    this.#waitingMax = waitingMax;
    this.#cursor = cursor;
    this.#handled = cursor ?? "0";
    this.#stored = cursor ?? "0";
  }

  /** The last entry that has come; `null`: a new device, which does not know yet where the server lets it begin. */
  get cursor(): Id | null {
    return this.#cursor;
  }

  get handled(): Id {
    return this.#handled;
  }

  get stored(): Id {
    return this.#stored;
  }

  /** Entries were left out because too many waited for the application: they must be asked for. */
  get isCongested(): boolean {
    return this.#isCongested;
  }

  /** Where a new device begins. */
  begin(cursor: Id): void {
    if (this.#cursor !== null) return;
    this.#cursor = cursor;
    this.#handled = cursor;
    this.#stored = cursor;
  }

  /** Takes the entry after the cursor. `missed`: there is a hole before it. */
  take(entry: InboxEntry): "taken" | "known" | "missed" | "left out" {
    const cursor = this.#cursor ?? "0";
    if (compareIds(entry.rev, cursor) <= 0) return "known";
    // Left out on purpose, and asked for when there is room again.
    if (this.#waiting.length >= this.#waitingMax) this.#isCongested = true;
    if (this.#isCongested) return "left out";
    if (entry.rev !== nextId(cursor)) return "missed";
    this.#cursor = entry.rev;
    this.#waiting.push(entry);
    return "taken";
  }

  /** Takes a part of a snapshot; with the last one it stands for everything up to its `rev`. */
  takeSnapshot({ conversations, rev, end }: Conversations): void {
    if (compareIds(rev, this.#cursor ?? "0") <= 0) return;
    if (this.#parts?.rev !== rev) this.#parts = { rev, conversations: new Map() };
    for (const state of conversations) this.#parts.conversations.set(state.conversation, state);
    if (!end) return;
    // What waits before it is in it.
    this.#snapshot = { conversations: [...this.#parts.conversations.values()], rev };
    this.#waiting = [];
    this.#isCongested = false;
    this.#cursor = rev;
    this.#parts = null;
  }

  /** What waits for the application and comes first. */
  takeWaiting(): Batch | null {
    const snapshot = this.#snapshot;
    if (snapshot !== null) {
      this.#snapshot = null;
      return { snapshot, rev: snapshot.rev };
    }
    const last = this.#waiting.at(-1);
    if (last === undefined) return null;
    const entries = this.#waiting;
    this.#waiting = [];
    return { entries, rev: last.rev };
  }

  /** There is room again; true when something was left out meanwhile. */
  endCongestion(): boolean {
    if (!this.#isCongested || this.#waiting.length > 0) return false;
    this.#isCongested = false;
    return true;
  }

  /** The application is done with everything up to `rev`. */
  handle(rev: Id): void {
    if (compareIds(rev, this.#cursor ?? "0") > 0) {
      throw new RangeError(`entries up to ${this.#cursor ?? 0} have come, so ${rev} cannot be acknowledged`);
    }
    this.#handled = maxId(this.#handled, rev);
  }

  /** And that is written down. */
  store(rev: Id): void {
    this.#stored = maxId(this.#stored, rev);
  }

  /** What the server is to be told, if it does not know. */
  untold(): Id | null {
    return compareIds(this.#stored, this.#told) > 0 ? this.#stored : null;
  }

  tell(rev: Id): void {
    this.#told = rev;
  }

  /** It may not have heard: another connection, or a refusal that does not say what it refuses. */
  tellAgain(): void {
    this.#told = "0";
  }
}
