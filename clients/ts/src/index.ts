/** A client of the Holdfast chat protocol, for browsers and Node: see README.md. */

export { Client, type ClientEvents, type ClientOptions, type RequestOptions, type SendOptions } from "./client.ts";
export { platform, type Environment, type Socket, type SocketEvents } from "./environment.ts";
export { OutboxFullError, RequestError, type Lost, type Refused } from "./errors.ts";
export type { Accepted, Conversations, GroupState, History } from "./frames.ts";
export type { Audience, DeviceState, Limits, NamedFrame, People, Person } from "./frames.ts";
export type { Receipts, UserPresence, UserTyping, Welcome } from "./frames.ts";
export { compareIds, type Id, type IdInput } from "./ids.ts";
export type { ConnectionState, Kept } from "./machine.ts";
export { fromBase64, toBase64 } from "./messages.ts";
export type {
  Body,
  Content,
  ConversationState,
  Custom,
  Entry,
  InboxEntry,
  Media,
  MemberReceipt,
  Message,
  ReadMark,
  Role,
  Snapshot,
} from "./messages.ts";
export { keptOf, webStore, type Store, type WebStorage } from "./store.ts";
