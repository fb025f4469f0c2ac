/**
 * Requests without a `clientId` that are answered all the same: `history`, `receipts`, `read`.
 *
 * A refusal of one does not say which it means, so one is in flight at a time: then it can only be that one. An answer
 * is known by its conversation, and by not contradicting the question.
 */

import { RequestError } from "./errors.ts";
import type { History, QueryFrame, Receipts } from "./frames.ts";
import { compareIds, conversationId, maxId, type Id } from "./ids.ts";

/** An answer that may be a note about somebody instead counts when nothing better has come for so long. */
const BETTER_WITHIN_MS = 1_000;

interface Query {
  readonly id: number;
  frame: QueryFrame;
  sentMs: number | null;
  /** See {@link Queries.fallback}. */
  fallback: { readonly receipts: Receipts; readonly atMs: number } | null;
}

/** What has become of a query. */
export type Answered = { readonly id: number; readonly answer: History | Receipts };
export type Failed = { readonly id: number; readonly error: RequestError };

export class Queries {
  readonly #max: number;
  readonly #timeoutMs: number;
  #waiting: Query[] = [];
  #ids = 0;

  constructor(max: number, timeoutMs: number) {
    this.#max = max;
    this.#timeoutMs = timeoutMs;
  }

  get size(): number {
    return this.#waiting.length;
  }

  /** Its id; for a `read` of a conversation whose last one was not sent yet, the id of that, which now says more. */
  push(frame: QueryFrame): number {
    const same = "read" in frame ? this.#unsentRead(frame.read.conversation) : undefined;
    if (same !== undefined && "read" in frame && "read" in same.frame) {
      const upTo = maxId(same.frame.read.upTo, frame.read.upTo);
      same.frame = { read: { conversation: frame.read.conversation, upTo } };
      return same.id;
    }
    if (this.size >= this.#max) {
      throw new RequestError("too_many_queries", `${this.size} queries wait for their answers, as many as are allowed`);
    }
    this.#ids += 1;
    this.#waiting.push({ id: this.#ids, frame, sentMs: null, fallback: null });
    return this.#ids;
  }

  /** The one to be sent, if none is in flight. */
  next(): QueryFrame | null {
    const [first] = this.#waiting;
    return first && first.sentMs === null ? first.frame : null;
  }

  markSent(nowMs: number): void {
    const [first] = this.#waiting;
    if (first) first.sentMs = nowMs;
  }

  get isInFlight(): boolean {
    const [first] = this.#waiting;
    return first !== undefined && first.sentMs !== null;
  }

  /** Another connection, or a refusal that means "later". */
  sendAgain(): void {
    const [first] = this.#waiting;
    if (first) {
      first.sentMs = null;
      first.fallback = null;
    }
  }

  /** Takes an answer if it is one to the query in flight. */
  answer(answer: { readonly history: History } | { readonly receipts: Receipts }, user: Id, nowMs: number): Answered | null {
    const [first] = this.#waiting;
    if (!first || first.sentMs === null) return null;
    const { id, frame } = first;
    if ("history" in answer) {
      const { history } = answer;
      const fits = "history" in frame && isSame(frame, history.conversation, user) && fitsBounds(frame.history, history);
      return fits ? this.#settle(id, history) : null;
    }
    const { receipts } = answer;
    if ("history" in frame || !isSame(frame, receipts.conversation, user)) return null;
    const own = receipts.members.find((member) => member.user === user);
    if (!own) return null;
    if ("read" in frame) return compareIds(own.read, frame.read.upTo) >= 0 ? this.#settle(id, receipts) : null;
    // A note that this user has read on with another device names this user alone; so does the answer in a group
    // that has no other members.
    if (receipts.members.length > 1) return this.#settle(id, receipts);
    first.fallback = { receipts, atMs: nowMs + BETTER_WITHIN_MS };
    return null;
  }

  /** When {@link due} has something to say. */
  nextMs(): number {
    const [first] = this.#waiting;
    if (!first || first.sentMs === null) return Infinity;
    return Math.min(first.sentMs + this.#timeoutMs, first.fallback?.atMs ?? Infinity);
  }

  due(nowMs: number): Answered | Failed | null {
    const [first] = this.#waiting;
    if (!first || nowMs < this.nextMs()) return null;
    if (first.fallback !== null) return this.#settle(first.id, first.fallback.receipts);
    return this.fail(new RequestError("timeout", "the server has not answered in time"));
  }

  /** The query in flight was refused for good, or given up. */
  fail(error: RequestError): Failed | null {
    if (!this.isInFlight) return null;
    const query = this.#waiting.shift();
    return query ? { id: query.id, error } : null;
  }

  #settle(id: number, answer: History | Receipts): Answered {
    this.#waiting.shift();
    return { id, answer };
  }

  #unsentRead(conversation: string): Query | undefined {
    return this.#waiting.find(
      ({ frame, sentMs }) => sentMs === null && "read" in frame && frame.read.conversation === conversation,
    );
  }
}

function isSame(frame: QueryFrame, conversation: string, user: Id): boolean {
  const [asked] = Object.values(frame) as [{ readonly conversation: string }];
  return conversationId(asked.conversation, user) === conversation;
}

/** A query that was sent twice may be answered twice; the second answer must not pass for that to another question. */
function fitsBounds({ before, after }: { readonly before?: Id; readonly after?: Id }, { messages }: History): boolean {
  return messages.every(
    ({ seq }) =>
      (before === undefined || compareIds(seq, before) < 0) && (after === undefined || compareIds(seq, after) > 0),
  );
}
