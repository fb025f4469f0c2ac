/**
 * When to reconnect.
 *
 * What the server said counts first: a close code that means "do not", a delay of a `drain` frame or of an `error`.
 * Else the delay is drawn from zero to a bound that doubles with each failure ("full jitter"), so that clients that
 * were cut off together do not come back together.
 */

export type Reconnect = "never" | "afterDelay" | "atOnce";

/** A number from 0 to 1, without 1. */
export type Random = () => number;

/** A connection that lasted this long was a success: the next failure is the first again. */
export const STABLE_MS = 10_000;

/** docs/protocol.md has the table; a code that is not known counts by its range. */
export function afterClose(code: number): Reconnect {
  if ([1000, 1002, 1003, 1007, 1008, 1009, 1010].includes(code)) return "never";
  if (code >= 4000 && code <= 4099) return "never";
  return code >= 4200 && code <= 4299 ? "atOnce" : "afterDelay";
}

export class Backoff {
  readonly #firstMs: number;
  readonly #maxMs: number;
  #failures = 0;
  /** When the server wants to see this client again; a time of its own, or one that others were given as well. */
  #hint: { readonly atMs: number; readonly isOwn: boolean } | null = null;

  constructor(firstMs: number, maxMs: number) {
    this.#firstMs = firstMs;
    this.#maxMs = maxMs;
  }

  /** Attempts since the last connection that lasted. */
  get failures(): number {
    return this.#failures;
  }

  /** `drain` gave this client a time of its own. */
  comeBackAt(atMs: number): void {
    this.#hint = { atMs, isOwn: true };
  }

  /** An error said when; perhaps the same to a million others. */
  notBefore(atMs: number): void {
    if (!this.#hint?.isOwn) this.#hint = { atMs, isOwn: false };
  }

  /** When to connect again, after a connection that was welcomed `lastedMs` ago, if it was; `null`: never. */
  next(nowMs: number, lastedMs: number | null, reconnect: Reconnect, random: Random): number | null {
    if (lastedMs !== null && lastedMs >= STABLE_MS) this.#failures = 0;
    const isFirst = this.#failures === 0;
    const boundMs = Math.min(this.#firstMs * 2 ** Math.min(this.#failures, 32), this.#maxMs);
    this.#failures += 1;
    const hint = this.#hint;
    this.#hint = null;
    const jitterMs = Math.round(random() * boundMs);
    if (reconnect === "never") return null;
    if (hint !== null && hint.atMs > nowMs) return hint.isOwn ? hint.atMs : hint.atMs + jitterMs;
    // "At once" is believed once: a server that always says so would be asked in a loop.
    if (reconnect === "atOnce" && isFirst) return nowMs;
    return nowMs + jitterMs;
  }
}
