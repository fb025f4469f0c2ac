/**
 * Signs of life, in both directions.
 *
 * The server must hear from this client once per interval. A browser cannot send WebSocket pongs, so the beat is a
 * `ping` frame; its answer shows that the server is still there. When nothing at all comes after one, it is not.
 */

/** A server that asks for more than one beat a second is not believed. */
const INTERVAL_MIN_MS = 1_000;
/** How long a server may take to answer a beat. */
const PATIENCE_MAX_MS = 15_000;
/** Timers come late, those of a tab in the background above all; a beat that is early costs nothing. */
const EARLY = 0.9;

export class Heartbeat {
  readonly #intervalMs: number;
  readonly #patienceMs: number;
  #heardMs: number;
  #spokeMs: number;
  #askedMs: number | null = null;

  constructor(intervalMs: number, nowMs: number) {
    const soundMs = Math.max(intervalMs, INTERVAL_MIN_MS);
    this.#intervalMs = soundMs * EARLY;
    this.#patienceMs = Math.min(soundMs, PATIENCE_MAX_MS);
    this.#heardMs = nowMs;
    this.#spokeMs = nowMs;
  }

  hear(nowMs: number): void {
    this.#heardMs = nowMs;
    this.#askedMs = null;
  }

  speak(nowMs: number): void {
    this.#spokeMs = nowMs;
  }

  /** A beat was sent, which must be answered. */
  ask(nowMs: number): void {
    this.#askedMs ??= nowMs;
    this.#spokeMs = nowMs;
  }

  nextMs(): number {
    const deadMs = this.#askedMs === null ? Infinity : this.#askedMs + this.#patienceMs;
    return Math.min(this.#beatMs(), deadMs);
  }

  /** What is due: to send a beat, or to give the connection up. */
  due(nowMs: number): "beat" | "dead" | null {
    if (this.#askedMs !== null && nowMs >= this.#askedMs + this.#patienceMs) return "dead";
    return nowMs >= this.#beatMs() ? "beat" : null;
  }

  #beatMs(): number {
    const silentMs = this.#spokeMs + this.#intervalMs;
    // Who speaks all the time and hears nothing must ask too.
    return this.#askedMs === null ? Math.min(silentMs, this.#heardMs + 2 * this.#intervalMs) : silentMs;
  }
}
