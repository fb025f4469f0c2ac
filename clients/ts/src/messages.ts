/**
 * What people say and what happens for them: the contents of inbox entries and histories, as in
 * `protocol/proto/holdfast/v1/chat.proto`, which explains each field. 64-bit numbers are {@link Id}s.
 */

import type { Id } from "./ids.ts";

export interface Custom {
  readonly contentType: string;
  /** Base64; see {@link toBase64}. */
  readonly data: string;
}

export interface Media {
  readonly id: string;
  readonly contentType: string;
  readonly bytes: Id;
  readonly name: string;
  readonly caption: string;
}

/** What a user can say. */
export type Content = { readonly text: string } | { readonly custom: Custom } | { readonly media: Media };

export type Role = "MEMBER" | "ADMIN" | "OWNER";

/** A message's content, or what has happened to the conversation or to an earlier message. */
export type Body =
  | Content
  | { readonly groupCreated: { readonly title: string; readonly members: readonly Id[]; readonly openHistory: boolean } }
  | { readonly membersAdded: { readonly users: readonly Id[]; readonly title: string } }
  | { readonly memberRemoved: { readonly user: Id } }
  | { readonly memberLeft: { readonly newOwner?: Id } }
  | { readonly renamed: { readonly title: string } }
  | { readonly roleSet: { readonly user: Id; readonly role: Role } }
  | { readonly retentionSet: { readonly days: number } }
  | { readonly edited: { readonly seq: Id; readonly content: Content } }
  | { readonly deleted: { readonly seq: Id } }
  /** What stood here is older than the conversation keeps. */
  | { readonly expired: Record<string, never> };

export interface Message {
  readonly conversation: string;
  readonly seq: Id;
  readonly messageId: Id;
  readonly sender: Id;
  readonly clientId: string;
  readonly device: string;
  readonly timeMs: Id;
  readonly body: Body;
  readonly replyTo?: Id;
  /** Only in a history. */
  readonly changedBy?: Id;
  /** How many messages the conversation has up to this one. */
  readonly ordinal?: Id;
}

/** How far the user has read a conversation, on whatever device. */
export interface ReadMark {
  readonly conversation: string;
  readonly upTo: Id;
  readonly ordinal: Id;
}

/** What happened for the user: one of these, or something that this version does not know and only passes on. */
export interface Entry {
  readonly message?: Message;
  readonly read?: ReadMark;
  readonly [kind: string]: unknown;
}

export interface InboxEntry {
  readonly rev: Id;
  readonly entry: Entry;
}

export interface MemberReceipt {
  readonly user: Id;
  /** The last message read; 0: none. */
  readonly read: Id;
  /** The last message that has arrived; never before `read`. */
  readonly delivered: Id;
}

/** A conversation as it is for the user. */
export interface ConversationState {
  readonly conversation: string;
  readonly rev: Id;
  readonly unread: Id;
  readonly read: Id;
  readonly title: string;
  readonly role: Role;
  readonly gone: boolean;
  /** The last message; in a {@link Snapshot} the last entries. */
  readonly messages: readonly Message[];
}

/** The user's conversations as they were at `rev`, instead of all the entries up to it. */
export interface Snapshot {
  readonly conversations: readonly ConversationState[];
  readonly rev: Id;
}

export function toBase64(bytes: Uint8Array): string {
  let binary = "";
  for (const byte of bytes) binary += String.fromCharCode(byte);
  return btoa(binary);
}

export function fromBase64(text: string): Uint8Array {
  return Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (letter) => letter.charCodeAt(0));
}
