/**
 * Not faster than the server takes: a bucket of tokens.
 *
 * A tenth of the burst is kept in reserve, for what the network squeezes together.
 */

export class Pace {
  readonly #perMs: number;
  readonly #capacity: number;
  #available: number;
  #filledMs: number;
  #notBeforeMs = 0;

  /** `perSecond` 0: as fast as you like. */
  constructor(perSecond: number, burst: number, nowMs: number) {
    this.#perMs = perSecond / 1000;
    this.#capacity = Math.max(burst - Math.floor(burst / 10), 1);
    this.#available = this.#capacity;
    this.#filledMs = nowMs;
  }

  /** The server said so: nothing before then. */
  pauseUntil(atMs: number): void {
    this.#notBeforeMs = Math.max(this.#notBeforeMs, atMs);
    this.#available = Math.min(this.#available, 1);
  }

  /** Takes what one request costs, if it may go now. */
  take(nowMs: number): boolean {
    if (this.nextMs(nowMs) > nowMs) return false;
    if (this.#perMs > 0) this.#available -= 1;
    return true;
  }

  /** When the next request may go. */
  nextMs(nowMs: number): number {
    if (this.#perMs === 0) return Math.max(this.#notBeforeMs, nowMs);
    const filled = Math.max(nowMs - this.#filledMs, 0) * this.#perMs;
    this.#available = Math.min(this.#available + filled, this.#capacity);
    this.#filledMs = Math.max(this.#filledMs, nowMs);
    const missing = Math.max(1 - this.#available, 0);
    // Rounded so that a sum of fractions does not wait one more millisecond for ever.
    return Math.max(this.#notBeforeMs, nowMs + Math.ceil(missing / this.#perMs - 1e-6));
  }
}
