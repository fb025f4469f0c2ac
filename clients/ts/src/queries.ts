/**
 * Requests without a `clientId` that are answered all the same: `history`, `receipts`, `read`, `conversations`,
 * `group`, `devices`, `revokeDevice`, `people`, `block`, `unblock`, `setContact`, `setPrivacy`.
 *
 * A refusal of one does not say which it means, so one is in flight at a time: then it can only be that one. An answer
 * is known by its conversation, and by not contradicting the question.
 */

import { RequestError } from "./errors.ts";
import type { Conversations, DeviceState, GroupState, History, People, QueryFrame, Receipts, ServerFrame } from "./frames.ts";
import { compareIds, conversationId, maxId, type Id } from "./ids.ts";

type HistoryQuery = { readonly conversation: string; readonly before?: Id; readonly after?: Id };

interface Query {
  readonly id: number;
  frame: QueryFrame;
  sentMs: number | null;
}

export type Answer = History | Receipts | Conversations | GroupState | readonly DeviceState[] | People;
type AnswerKind = "history" | "receipts" | "conversations" | "group" | "devices" | "people";
export type AnswerFrame = Extract<ServerFrame, { kind: AnswerKind }>;

/** What has become of a query. */
export type Answered = { readonly id: number; readonly answer: Answer };
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
    this.#waiting.push({ id: this.#ids, frame, sentMs: null });
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
    if (first) first.sentMs = null;
  }

  /** Takes an answer if it is one to the query in flight. */
  answer(answer: AnswerFrame, user: Id): Answered | null {
    const [first] = this.#waiting;
    if (!first || first.sentMs === null) return null;
    const { id, frame } = first;
    switch (answer.kind) {
      case "history":
        return "history" in frame && fitsHistory(frame.history, answer.history, user) ? this.#settle(id, answer.history) : null;
      case "receipts":
        return fitsReceipts(frame, answer.receipts, user) ? this.#settle(id, answer.receipts) : null;
      case "conversations":
        return "conversations" in frame ? this.#settle(id, answer.conversations) : null;
      case "group":
        return "group" in frame && frame.group.conversation === answer.group.conversation ? this.#settle(id, answer.group) : null;
      case "devices":
        return "devices" in frame || "revokeDevice" in frame ? this.#settle(id, answer.devices) : null;
      case "people":
        return fitsPeople(frame, answer.people) ? this.#settle(id, answer.people) : null;
    }
  }

  /** When {@link due} has something to say. */
  nextMs(): number {
    const [first] = this.#waiting;
    if (!first || first.sentMs === null) return Infinity;
    return first.sentMs + this.#timeoutMs;
  }

  due(nowMs: number): Failed | null {
    if (nowMs < this.nextMs()) return null;
    return this.fail(new RequestError("timeout", "the server has not answered in time"));
  }

  /** The query in flight was refused for good, or given up. */
  fail(error: RequestError): Failed | null {
    if (!this.isInFlight) return null;
    const query = this.#waiting.shift();
    return query ? { id: query.id, error } : null;
  }

  #settle(id: number, answer: Answer): Answered {
    this.#waiting.shift();
    return { id, answer };
  }

  #unsentRead(conversation: string): Query | undefined {
    return this.#waiting.find(
      ({ frame, sentMs }) => sentMs === null && "read" in frame && frame.read.conversation === conversation,
    );
  }
}

/** A query that was sent twice may be answered twice; the second answer must not pass for that to another question. */
function fitsHistory({ conversation, before, after }: HistoryQuery, history: History, user: Id): boolean {
  if (conversationId(conversation, user) !== history.conversation) return false;
  return history.messages.every(
    ({ seq }) =>
      (before === undefined || compareIds(seq, before) < 0) && (after === undefined || compareIds(seq, after) > 0),
  );
}

/** Notes name those others who have read on; the answers name this user: to `read` alone, to `receipts` with all. */
function fitsReceipts(frame: QueryFrame, { conversation, members }: Receipts, user: Id): boolean {
  const own = members.find((member) => member.user === user);
  if (own === undefined) return false;
  if ("read" in frame) {
    return conversationId(frame.read.conversation, user) === conversation && compareIds(own.read, frame.read.upTo) >= 0;
  }
  if (!("receipts" in frame) || conversationId(frame.receipts.conversation, user) !== conversation) return false;
  // A group may have no other members.
  return members.length > 1 || conversation.startsWith("g");
}

/** What another device has changed comes unasked, and may be the very same. */
function fitsPeople(frame: QueryFrame, people: People): boolean {
  const is = (user: Id, so: (person: People["people"][number]) => boolean): boolean =>
    people.changed && people.people.some((person) => person.user === user && so(person));
  if ("people" in frame) return !people.changed;
  if ("block" in frame) return is(frame.block.user, (person) => person.blocked);
  if ("unblock" in frame) return is(frame.unblock.user, (person) => !person.blocked);
  if ("setContact" in frame) return is(frame.setContact.user, (person) => person.contact === frame.setContact.contact);
  return "setPrivacy" in frame && people.changed && people.presence === frame.setPrivacy.presence;
}
