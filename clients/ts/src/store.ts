/**
 * Where a client keeps what has to survive a restart: how far it is, and what was not accepted yet.
 *
 * Each device needs a place of its own. `save` replaces what was there, whole or not at all.
 */

import type { NamedFrame } from "./frames.ts";
import { isId } from "./ids.ts";
import type { Kept } from "./machine.ts";

export interface Store {
  load(): Kept | null | Promise<Kept | null>;
  save(kept: Kept): void | Promise<void>;
}

/** A store in `localStorage`, `sessionStorage`, or what looks like them. */
export function webStore(area: WebStorage, key: string): Store {
  return {
    load() {
      const text = area.getItem(key);
      return text === null ? null : keptOf(JSON.parse(text));
    },
    save(kept) {
      area.setItem(key, JSON.stringify(kept));
    },
  };
}

export interface WebStorage {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
}

/** Reads what was kept as JSON. Throws where it is spoilt: to go on without it would lose requests without a word. */
export function keptOf(value: unknown): Kept {
  const { cursor, outbox } = (value ?? {}) as { readonly cursor?: unknown; readonly outbox?: unknown };
  const isCursor = cursor === null || (typeof cursor === "string" && isId(cursor));
  if (!isCursor || !Array.isArray(outbox) || !outbox.every(isNamedFrame)) {
    throw new TypeError("what was kept is neither a cursor nor an outbox");
  }
  return { cursor, outbox };
}

function isNamedFrame(value: unknown): value is NamedFrame {
  if (typeof value !== "object" || value === null) return false;
  const [content] = Object.values(value) as unknown[];
  return typeof content === "object" && content !== null && "clientId" in content && typeof content.clientId === "string";
}
