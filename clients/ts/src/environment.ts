/** What a client needs from the world: connections, time and chance. Tests bring their own. */

import type { Random } from "./backoff.ts";

export interface Environment {
  /** Opens a WebSocket. Throws where the URL is none. */
  connect(url: string, subprotocol: string, events: SocketEvents): Socket;
  /** A clock that never goes back. */
  nowMs(): number;
  /** The time of day, to tell people. */
  wallMs(): number;
  /** Calls `onTime` once, later; gives what stops that. */
  startTimer(delayMs: number, onTime: () => void): () => void;
  readonly random: Random;
  /** Text that no other device chooses by accident. */
  newName(): string;
}

export interface Socket {
  send(text: string): void;
  /** Closes it; nothing is reported from here on. */
  close(): void;
}

export interface SocketEvents {
  onOpen(): void;
  onText(text: string): void;
  onClose(code: number, reason: string): void;
}

/** The one that browsers and Node (22 and later) have. */
export const platform: Environment = {
  connect(url, subprotocol, events) {
    const socket = new WebSocket(url, [subprotocol]);
    socket.onopen = () => events.onOpen();
    // What is not text is not of this subprotocol; as text without content it breaks the protocol.
    socket.onmessage = ({ data }: MessageEvent<unknown>) => events.onText(typeof data === "string" ? data : "");
    socket.onclose = ({ code, reason }) => events.onClose(code, reason);
    return {
      send: (text) => socket.send(text),
      close() {
        socket.onopen = socket.onmessage = socket.onclose = null;
        socket.close(1000);
      },
    };
  },
  nowMs: () => performance.now(),
  wallMs: () => Date.now(),
  startTimer(delayMs, onTime) {
    // A longer delay than 31 bits of milliseconds would come at once.
    const timer = setTimeout(onTime, Math.min(Math.max(delayMs, 0), 2 ** 31 - 1));
    return () => clearTimeout(timer);
  },
  random: Math.random,
  // Works where `crypto.randomUUID` (secure pages only) does not.
  newName: () =>
    [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join(""),
};
