/**
 * What is refused here already, where it was written.
 *
 * Most limits are the server's to judge. Here stand those whose refusal would not say which request it means, and
 * those that would cost the connection.
 */

import { RequestError } from "./errors.ts";
import type { Content } from "./messages.ts";

/** A conversation's name as the server reads it: `@43`, `42:43` or `g7`. */
export function checkConversation(name: string): string {
  const number = "(0|[1-9][0-9]{0,19})";
  if (new RegExp(`^(@|g|${number}:)${number}$`).test(name)) return name;
  throw new RequestError("bad_conversation", `a conversation is called @43, 42:43 or g7, not ${JSON.stringify(name)}`);
}

/** Half a surrogate pair has no UTF-8: the server could not read the frame. */
export function checkText(text: string): string {
  if (/\p{Surrogate}/u.test(text)) throw new RequestError("bad_text", "the text has half a character (a lone surrogate)");
  return text;
}

export function checkClientId(clientId: string): string {
  const bytes = utf8Bytes(checkText(clientId));
  if (bytes >= 1 && bytes <= 64) return clientId;
  throw new RequestError("bad_client_id", `a clientId has 1 to 64 bytes, not ${bytes}`);
}

export function checkContent(content: Content, bytesMax: number): Content {
  const bytes = contentBytes(content);
  if (bytes <= bytesMax) return content;
  throw new RequestError("message_too_large", `the body has ${bytes} bytes; ${bytesMax} are allowed`);
}

/** Of a history, and of a list of conversations; 0: as many as the server likes. */
export function checkLimit(limit: number, max = 200): number {
  if (Number.isSafeInteger(limit) && limit >= 0 && limit <= max) return limit;
  throw new RangeError(`limit is 0 to ${max}, not ${limit}`);
}

export function checkDays(days: number): number {
  if (Number.isSafeInteger(days) && days >= 0 && days <= 36_500) return days;
  throw new RangeError(`a group keeps messages for 1 to 36,500 days, or (0) as long as the server does, not for ${days}`);
}

export function utf8Bytes(text: string): number {
  return new TextEncoder().encode(text).length;
}

function contentBytes(content: Content): number {
  if ("text" in content) return utf8Bytes(checkText(content.text));
  if ("custom" in content) {
    checkText(content.custom.contentType);
    // Base64 with or without padding.
    return Math.floor((content.custom.data.replace(/=+$/, "").length * 3) / 4);
  }
  const { id, contentType, name, caption } = content.media;
  for (const text of [id, contentType, name]) checkText(text);
  return utf8Bytes(checkText(caption));
}
