/**
 * Requests on their way: kept until the server has accepted them or refused them for good.
 *
 * Invariant: of one conversation there is one request in flight at a time, the oldest. So nothing can change their
 * order, neither a refusal ("later, please") nor a connection that breaks: the server knows a request that it has by
 * its `clientId`, and answers as it did before. Different conversations do not wait for each other.
 */

import { utf8Bytes } from "./checks.ts";
import { OutboxFullError, RequestError } from "./errors.ts";
import type { NamedFrame } from "./frames.ts";
import { conversationId, type Id } from "./ids.ts";

export interface OutboxLimits {
  readonly requests: number;
  readonly bytes: number;
}

interface Waiting {
  readonly clientId: string;
  readonly frame: NamedFrame;
  readonly bytes: number;
  /** It is stored when everything up to this version is. */
  readonly version: number;
  isInFlight: boolean;
}

export class Outbox {
  readonly #limits: OutboxLimits;
  #waiting: Waiting[] = [];
  #bytes = 0;

  constructor(limits: OutboxLimits) {
    this.#limits = limits;
  }

  get size(): number {
    return this.#waiting.length;
  }

  /** What has to survive a restart. */
  frames(): NamedFrame[] {
    return this.#waiting.map(({ frame }) => frame);
  }

  push(frame: NamedFrame, version: number): void {
    const clientId = clientIdOf(frame);
    if (this.#waiting.some((waiting) => waiting.clientId === clientId)) {
      throw new RequestError("duplicate", `a request with the clientId ${JSON.stringify(clientId)} waits for its answer`);
    }
    const bytes = utf8Bytes(JSON.stringify(frame));
    if (this.size >= this.#limits.requests || this.#bytes + bytes > this.#limits.bytes) {
      throw new OutboxFullError(this.size, this.#bytes);
    }
    this.restore(frame, version);
  }

  /** As {@link push}, for what was taken before a restart: no limit may lose it. */
  restore(frame: NamedFrame, version: number): void {
    const bytes = utf8Bytes(JSON.stringify(frame));
    this.#bytes += bytes;
    this.#waiting.push({ clientId: clientIdOf(frame), frame, bytes, version, isInFlight: false });
  }

  /** The next request that may go: stored, and the oldest of its conversation. */
  next(user: Id, storedVersion: number): NamedFrame | null {
    const seen = new Set<string>();
    for (const { clientId, frame, version, isInFlight } of this.#waiting) {
      const conversation = conversationOf(frame);
      const lane = conversation === null ? `new ${clientId}` : conversationId(conversation, user);
      if (seen.has(lane)) continue;
      seen.add(lane);
      if (!isInFlight && version <= storedVersion) return frame;
    }
    return null;
  }

  inFlight(): string[] {
    return this.#waiting.filter(({ isInFlight }) => isInFlight).map(({ clientId }) => clientId);
  }

  markSent(frame: NamedFrame): void {
    const waiting = this.#waiting.find((waiting) => waiting.frame === frame);
    if (waiting) waiting.isInFlight = true;
  }

  /** It has to be sent again. False: it was not waiting. */
  sendAgain(clientId: string): boolean {
    const waiting = this.#waiting.find((waiting) => waiting.clientId === clientId);
    if (waiting) waiting.isInFlight = false;
    return waiting !== undefined;
  }

  /** Another connection, which has seen nothing. */
  beginAgain(): void {
    for (const waiting of this.#waiting) waiting.isInFlight = false;
  }

  /** It was answered. False: it was not waiting; the answer to a repetition may come after the answer. */
  remove(clientId: string): boolean {
    const waiting = this.#waiting.find((waiting) => waiting.clientId === clientId);
    if (!waiting) return false;
    this.#bytes -= waiting.bytes;
    this.#waiting = this.#waiting.filter((other) => other !== waiting);
    return true;
  }
}

/** A frame is an object with one key. */
function contentOf(frame: NamedFrame): { readonly clientId: string; readonly conversation?: string } {
  const [content] = Object.values(frame) as [{ readonly clientId: string; readonly conversation?: string }];
  return content;
}

export function clientIdOf(frame: NamedFrame): string {
  return contentOf(frame).clientId;
}

function conversationOf(frame: NamedFrame): string | null {
  return contentOf(frame).conversation ?? null;
}
