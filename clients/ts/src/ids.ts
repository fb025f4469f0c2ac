/**
 * 64-bit numbers of the protocol, as strings of digits.
 *
 * A JavaScript number is exact only up to 2^53, so an id, a `seq` or a `rev` is never one here. As text they are
 * compared without being converted: without leading zeros the longer one is the greater one.
 */

/** Digits of an unsigned 64-bit number, without leading zeros. */
export type Id = string;
/** What a caller may give where an {@link Id} is wanted. */
export type IdInput = Id | bigint;

/** Below 0 when `one` is the smaller, above 0 when it is the greater. */
export function compareIds(one: Id, other: Id): number {
  if (one.length !== other.length) return one.length - other.length;
  return one < other ? -1 : one > other ? 1 : 0;
}

export function nextId(id: Id): Id {
  return String(BigInt(id) + 1n);
}

export function maxId(one: Id, other: Id): Id {
  return compareIds(one, other) >= 0 ? one : other;
}

/** Takes what a caller gave; what is none throws, so that it is found where it was written. */
export function toId(input: IdInput, what: string): Id {
  const id = String(input);
  if (!isId(id)) throw new RangeError(`${what} is a number from 0 to 2^64 - 1 in digits, not ${JSON.stringify(id)}`);
  return id;
}

export function isId(text: string): boolean {
  return /^(0|[1-9][0-9]{0,19})$/.test(text) && compareIds(text, "18446744073709551615") <= 0;
}

/** A direct conversation has several names (`@43`, `42:43`); this is the one that the server uses. */
export function conversationId(name: string, user: Id): string {
  const [one, other] = name.startsWith("@") ? [user, name.slice(1)] : name.split(":");
  if (one === undefined || other === undefined) return name;
  return compareIds(one, other) <= 0 ? `${one}:${other}` : `${other}:${one}`;
}
