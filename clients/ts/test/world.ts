/** An environment without network and clock: the test plays the server, and lets time pass. */

import assert from "node:assert/strict";

import type { Environment, SocketEvents } from "../src/environment.ts";
import { USER } from "./harness.ts";

export class World implements Environment {
  time = 0;
  readonly random = () => 0;
  /** URLs that were connected to. */
  readonly urls: string[] = [];
  readonly #sent: string[] = [];
  #events: SocketEvents | null = null;
  #timer: { readonly atMs: number; readonly onTime: () => void } | null = null;
  #names = 0;

  connect(url: string, subprotocol: string, events: SocketEvents): { send(text: string): void; close(): void } {
    assert.equal(subprotocol, "holdfast.v1.json");
    this.urls.push(url);
    this.#events = events;
    const isPresent = () => this.#events === events;
    return {
      send: (text) => {
        assert(isPresent(), "nothing is written to a connection that is gone");
        this.#sent.push(text);
      },
      close: () => {
        if (isPresent()) this.#events = null;
      },
    };
  }

  nowMs(): number {
    return this.time;
  }

  wallMs(): number {
    return 1_780_000_000_000 + this.time;
  }

  startTimer(delayMs: number, onTime: () => void): () => void {
    const timer = { atMs: this.time + Math.max(delayMs, 0), onTime };
    this.#timer = timer;
    return () => {
      if (this.#timer === timer) this.#timer = null;
    };
  }

  newName(): string {
    this.#names += 1;
    return `name ${this.#names}`;
  }

  get isConnected(): boolean {
    return this.#events !== null;
  }

  /** Opens what was asked for. */
  async open(): Promise<void> {
    await settled();
    assert(this.#events, "a connection is wanted");
    this.#events.onOpen();
  }

  /** Opens what was asked for, and welcomes it. */
  async welcome(cursor = "0", head = cursor): Promise<void> {
    await this.open();
    const limits = { messageBytes: 100, pageEntries: 1_000, sendPerSecond: 0, sendBurst: 0 };
    this.give({ welcome: { user: USER, device: "phone", heartbeatMs: 30_000, cursor, head, limits, serverTimeMs: "0" } });
    await settled();
  }

  give(frame: object): void {
    assert(this.#events, "there is a connection");
    this.#events.onText(JSON.stringify(frame));
  }

  async drop(code: number): Promise<void> {
    const events = this.#events;
    this.#events = null;
    events?.onClose(code, "");
    await settled();
  }

  async wait(durationMs: number): Promise<void> {
    const endMs = this.time + durationMs;
    while (this.#timer && this.#timer.atMs <= endMs) {
      const { atMs, onTime } = this.#timer;
      this.#timer = null;
      this.time = Math.max(this.time, atMs);
      onTime();
      await settled();
    }
    this.time = endMs;
  }

  /** Frames since the last call. */
  sent(): unknown[] {
    return this.#sent.splice(0).map((text) => JSON.parse(text) as unknown);
  }
}

/** Promises that are kept already have had their effects. */
export async function settled(): Promise<void> {
  for (let times = 0; times < 20; times += 1) await Promise.resolve();
}
