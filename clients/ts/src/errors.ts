/** What a request can end with instead of an answer, and why a connection is gone. */

/**
 * A request was refused for good. `code` is one of docs/protocol.md's, or one of this side's: `outbox_full`,
 * `too_many_queries`, `timeout`, `closed`, `duplicate`, `bad_text`.
 */
export class RequestError extends Error {
  override readonly name = "RequestError";
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

/** Too much waits for its `accepted` already; what was given was not taken. */
export class OutboxFullError extends RequestError {
  readonly requests: number;
  readonly bytes: number;

  constructor(requests: number, bytes: number) {
    super("outbox_full", `${requests} requests of ${bytes} bytes wait for their answers, as many as are allowed`);
    this.requests = requests;
    this.bytes = bytes;
  }
}

/** Why there is no connection. */
export type Lost =
  /** The server closed it, or the network did (1006). `error`: what the server said before. */
  | { readonly kind: "closed"; readonly code: number; readonly reason: string; readonly error: Refused | null }
  /** No `welcome` came in time. */
  | { readonly kind: "connectTimeout" }
  /** Nothing came for too long. */
  | { readonly kind: "silent" }
  /** The server broke the protocol. */
  | { readonly kind: "protocol"; readonly message: string }
  /** The application's handler failed: what it was given counts as not stored. */
  | { readonly kind: "handlerFailed"; readonly error: unknown }
  /** This side wanted it. */
  | { readonly kind: "local" };

/** What an `error` frame said. */
export interface Refused {
  readonly code: string;
  readonly message: string;
}

/** The same request may pass later. */
const PASSING = new Set(["rate_limited", "overloaded", "storage_failed", "storage_full"]);

export function isPassing(code: string): boolean {
  return PASSING.has(code);
}
