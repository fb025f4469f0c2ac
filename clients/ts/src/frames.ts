/**
 * Frames of `holdfast.v1.json`: one object with one key per WebSocket message.
 *
 * What a server sends is read leniently where later versions may say more (frames, entries and fields that are not
 * known here), and strictly where this client relies on it: a `rev` that is no number must not become a cursor.
 */

import { isId, type Id } from "./ids.ts";
import type { Content, ConversationState, Entry, InboxEntry, MemberReceipt, Message, Role } from "./messages.ts";

export const SUBPROTOCOL = "holdfast.v1.json";

/** Requests with a name of their own, `clientId`: sent again until they are answered. */
export type NamedFrame =
  | { readonly send: { clientId: string; conversation: string; body: Content; replyTo?: Id } }
  | { readonly edit: { clientId: string; conversation: string; seq: Id; content: Content } }
  | { readonly delete: { clientId: string; conversation: string; seq: Id } }
  | { readonly createGroup: { clientId: string; title: string; members: Id[]; openHistory: boolean } }
  | { readonly addMembers: { clientId: string; conversation: string; users: Id[] } }
  | { readonly removeMember: { clientId: string; conversation: string; user: Id } }
  | { readonly leave: { clientId: string; conversation: string } }
  | { readonly rename: { clientId: string; conversation: string; title: string } }
  | { readonly setRole: { clientId: string; conversation: string; user: Id; role: Role } }
  | { readonly setRetention: { clientId: string; conversation: string; days: number } };

/** Requests that are answered, but whose refusal does not say which it means. */
export type QueryFrame =
  | { readonly history: { conversation: string; before?: Id; after?: Id; limit: number } }
  | { readonly receipts: { conversation: string } }
  | { readonly read: { conversation: string; upTo: Id } }
  | { readonly conversations: { after: string; limit: number } }
  | { readonly group: { conversation: string } }
  | { readonly devices: Record<string, never> }
  | { readonly revokeDevice: { device: string } }
  | { readonly people: { after: Id; limit: number } }
  | { readonly block: { user: Id } }
  | { readonly unblock: { user: Id } }
  | { readonly setContact: { user: Id; contact: boolean } }
  | { readonly setPrivacy: { presence: Audience } };

export type ClientFrame =
  | NamedFrame
  | QueryFrame
  | { readonly hello: { token: string; device: string; cursor?: Id; everyEntry: boolean } }
  | { readonly ack: { rev: Id } }
  | { readonly sync: { after: Id; limit: number; everyEntry: boolean } }
  | { readonly ping: { nonce: Id } }
  | { readonly typing: { conversation: string; stopped: boolean } }
  | { readonly watchPresence: { users: readonly Id[] } }
  | { readonly setAway: { away: boolean } };

export interface Limits {
  readonly messageBytes: number;
  readonly pageEntries: number;
  readonly sendPerSecond: number;
  readonly sendBurst: number;
}

export interface Welcome {
  readonly user: Id;
  readonly device: string;
  readonly heartbeatMs: number;
  readonly cursor: Id;
  readonly head: Id;
  readonly limits: Limits;
  readonly serverTimeMs: Id;
}

export interface Accepted {
  readonly clientId: string;
  readonly messageId: Id;
  readonly seq: Id;
  /** Of `createGroup`: the group. */
  readonly conversation?: string;
}

/** A part of a conversation, in the order of `seq`. */
export interface History {
  readonly conversation: string;
  readonly messages: readonly Message[];
  /** The last `seq` of the conversation. */
  readonly head: Id;
  /** Nothing that the user may see lies further in this direction. */
  readonly end: boolean;
}

export interface Receipts {
  readonly conversation: string;
  readonly members: readonly MemberReceipt[];
}

/** A part of the user's conversations, in the order of their ids. */
export interface Conversations {
  readonly conversations: readonly ConversationState[];
  /** Everything up to here is in it, and nothing behind it. */
  readonly rev: Id;
  /** There are no further ones. */
  readonly end: boolean;
}

/** A group as it is. */
export interface GroupState {
  readonly conversation: string;
  readonly title: string;
  readonly openHistory: boolean;
  /** In the order of their ids; `joined` is the `seq` of the event by which somebody has come. */
  readonly members: readonly { readonly user: Id; readonly role: Role; readonly joined: Id }[];
  /** The last `seq` that this takes into account. */
  readonly seq: Id;
  /** For how many days it keeps what is written in it; 0: as long as the server keeps everything. */
  readonly retentionDays: number;
}

/** Who may see something. */
export type Audience = "everyone" | "contacts" | "nobody";

/** Another user, as the user sees that one. */
export interface Person {
  readonly user: Id;
  readonly contact: boolean;
  readonly blocked: boolean;
}

/** What others are to the user. */
export interface People {
  /** Who may see the user's presence; a string of a later version, perhaps. */
  readonly presence: string;
  /** In the order of their ids. */
  readonly people: readonly Person[];
  /** Of an answer to `people`: there are no further ones. */
  readonly end: boolean;
  /** This is how it is now with those who are named; with others it is as before. */
  readonly changed: boolean;
}

/** A device of the user. */
export interface DeviceState {
  readonly device: string;
  readonly online: boolean;
  /** It is the one that asks. */
  readonly current: boolean;
  /** Of one that is not connected: when it confirmed something last, in milliseconds since 1970. */
  readonly lastSeenMs?: Id;
  /** The last `rev` that it has confirmed. */
  readonly cursor: Id;
}

export interface UserTyping {
  readonly conversation: string;
  readonly user: Id;
  readonly stopped: boolean;
}

/** Whether a user is there, now. */
export interface UserPresence {
  readonly user: Id;
  /** A device of the user is connected, or was until a moment ago. */
  readonly online: boolean;
  /** Nobody is at any of the devices that are connected. */
  readonly away: boolean;
  /** Of a user who is not online: when the last device went, if there ever was one, in milliseconds since 1970. */
  readonly lastSeenMs?: Id;
}

export interface ServerError {
  readonly code: string;
  readonly message: string;
  readonly retryAfterMs: number;
  readonly clientId: string;
}

export type ServerFrame =
  | { readonly kind: "welcome"; readonly welcome: Welcome }
  | { readonly kind: "accepted"; readonly accepted: Accepted }
  | { readonly kind: "event"; readonly event: InboxEntry }
  | { readonly kind: "page"; readonly events: readonly InboxEntry[]; readonly isLive: boolean }
  | { readonly kind: "history"; readonly history: History }
  | { readonly kind: "receipts"; readonly receipts: Receipts }
  | { readonly kind: "conversations"; readonly conversations: Conversations }
  | { readonly kind: "snapshot"; readonly part: Conversations }
  | { readonly kind: "group"; readonly group: GroupState }
  | { readonly kind: "devices"; readonly devices: readonly DeviceState[] }
  | { readonly kind: "people"; readonly people: People }
  | { readonly kind: "typing"; readonly typing: UserTyping }
  | { readonly kind: "presence"; readonly users: readonly UserPresence[] }
  | { readonly kind: "gap" }
  | { readonly kind: "drain"; readonly afterMs: number; readonly to: string }
  | { readonly kind: "error"; readonly error: ServerError }
  | { readonly kind: "pong" }
  | { readonly kind: "other"; readonly name: string; readonly content: unknown };

/** The server's bytes are not what the protocol says. */
export class FrameError extends Error {
  override readonly name = "FrameError";
}

export function parseServerFrame(text: string): ServerFrame {
  let frame: unknown;
  try {
    frame = JSON.parse(text);
  } catch {
    throw new FrameError("a message that is not JSON");
  }
  const name = isRecord(frame) ? Object.keys(frame)[0] : undefined;
  // An object without a key would be a frame of a later version which has nothing to say to this one.
  if (!isRecord(frame)) throw new FrameError("a message that is not an object");
  if (name === undefined) return { kind: "other", name: "", content: frame };
  const content = frame[name];
  const read = readers[name];
  if (read === undefined || !Object.hasOwn(readers, name)) return { kind: "other", name, content };
  if (!isRecord(content)) throw new FrameError(`${name} is not an object`);
  return read(content);
}

type Fields = { readonly [key: string]: unknown };

const readers: { readonly [name: string]: ((content: Fields) => ServerFrame) | undefined } = {
  welcome: (content) => ({ kind: "welcome", welcome: welcomeOf(content) }),
  accepted: (content) => {
    const conversation = textIn(content, "conversation");
    const accepted = {
      clientId: textIn(content, "clientId"),
      messageId: idIn(content, "messageId"),
      seq: idIn(content, "seq"),
    };
    return { kind: "accepted", accepted: conversation === "" ? accepted : { ...accepted, conversation } };
  },
  event: (content) => ({ kind: "event", event: inboxEntryOf(content) }),
  page: (content) => ({
    kind: "page",
    events: listIn(content, "events").map(inboxEntryOf),
    isLive: flagIn(content, "live"),
  }),
  history: (content) => ({
    kind: "history",
    history: {
      conversation: textIn(content, "conversation"),
      messages: listIn(content, "messages").map(messageOf),
      head: idIn(content, "head"),
      end: flagIn(content, "end"),
    },
  }),
  receipts: (content) => ({
    kind: "receipts",
    receipts: {
      conversation: textIn(content, "conversation"),
      members: listIn(content, "members").map((member) => ({
        user: idIn(member, "user"),
        read: idIn(member, "read"),
        delivered: idIn(member, "delivered"),
      })),
    },
  }),
  conversations: (content) => ({ kind: "conversations", conversations: conversationsOf(content) }),
  snapshot: (content) => ({ kind: "snapshot", part: conversationsOf(content) }),
  group: (content) => ({
    kind: "group",
    group: {
      conversation: textIn(content, "conversation"),
      title: textIn(content, "title"),
      openHistory: flagIn(content, "openHistory"),
      members: listIn(content, "members").map((member) => {
        return { user: idIn(member, "user"), role: textIn(member, "role") as Role, joined: idIn(member, "joined") };
      }),
      seq: idIn(content, "seq"),
      retentionDays: wholeIn(content, "retentionDays"),
    },
  }),
  devices: (content) => ({
    kind: "devices",
    devices: listIn(content, "devices").map((device) => {
      const state = {
        device: textIn(device, "device"),
        online: flagIn(device, "online"),
        current: flagIn(device, "current"),
        cursor: idIn(device, "cursor"),
      };
      return device["lastSeenMs"] === undefined ? state : { ...state, lastSeenMs: idIn(device, "lastSeenMs") };
    }),
  }),
  people: (content) => ({
    kind: "people",
    people: {
      presence: textIn(content, "presence"),
      people: listIn(content, "people").map((person) => ({
        user: idIn(person, "user"),
        contact: flagIn(person, "contact"),
        blocked: flagIn(person, "blocked"),
      })),
      end: flagIn(content, "end"),
      changed: flagIn(content, "changed"),
    },
  }),
  typing: (content) => ({
    kind: "typing",
    typing: {
      conversation: textIn(content, "conversation"),
      user: idIn(content, "user"),
      stopped: flagIn(content, "stopped"),
    },
  }),
  presence: (content) => ({
    kind: "presence",
    users: listIn(content, "users").map((user) => {
      const there = { user: idIn(user, "user"), online: flagIn(user, "online"), away: flagIn(user, "away") };
      return user["lastSeenMs"] === undefined ? there : { ...there, lastSeenMs: idIn(user, "lastSeenMs") };
    }),
  }),
  gap: () => ({ kind: "gap" }),
  drain: (content) => ({ kind: "drain", afterMs: wholeIn(content, "afterMs"), to: textIn(content, "to") }),
  error: (content) => ({
    kind: "error",
    error: {
      code: textIn(content, "code"),
      message: textIn(content, "message"),
      retryAfterMs: wholeIn(content, "retryAfterMs"),
      clientId: textIn(content, "clientId"),
    },
  }),
  pong: () => ({ kind: "pong" }),
};

function welcomeOf(content: Fields): Welcome {
  const limits = isRecord(content["limits"]) ? content["limits"] : {};
  return {
    user: idIn(content, "user"),
    device: textIn(content, "device"),
    heartbeatMs: wholeIn(content, "heartbeatMs"),
    cursor: idIn(content, "cursor"),
    head: idIn(content, "head"),
    limits: {
      messageBytes: wholeIn(limits, "messageBytes"),
      pageEntries: wholeIn(limits, "pageEntries"),
      sendPerSecond: wholeIn(limits, "sendPerSecond"),
      sendBurst: wholeIn(limits, "sendBurst"),
    },
    serverTimeMs: idIn(content, "serverTimeMs"),
  };
}

function inboxEntryOf(event: Fields): InboxEntry {
  const entry = event["entry"] ?? {};
  if (!isRecord(entry)) throw new FrameError("entry is not an object");
  const { message } = entry;
  if (message !== undefined && !isRecord(message)) throw new FrameError("message is not an object");
  // An entry of an unknown kind has its place in the inbox all the same.
  return { rev: idIn(event, "rev"), entry: message === undefined ? (entry as Entry) : { ...entry, message: messageOf(message) } };
}

function conversationsOf(content: Fields): Conversations {
  const conversations = listIn(content, "conversations").map((state) => {
    textIn(state, "conversation");
    return state as unknown as ConversationState;
  });
  return { conversations, rev: idIn(content, "rev"), end: flagIn(content, "end") };
}

/** Only what other parts of this library rely on is checked; the rest is between the server and the application. */
function messageOf(message: Fields): Message {
  textIn(message, "conversation");
  idIn(message, "seq");
  return message as unknown as Message;
}

function isRecord(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

// As in protobuf, a field that is not there is zero or empty.

function textIn(fields: Fields, key: string): string {
  const value = fields[key] ?? "";
  if (typeof value !== "string") throw new FrameError(`${key} is not a text`);
  return value;
}

function idIn(fields: Fields, key: string): Id {
  const value = fields[key] ?? "0";
  if (typeof value !== "string" || !isId(value)) throw new FrameError(`${key} is not a 64-bit number in digits`);
  return value;
}

function wholeIn(fields: Fields, key: string): number {
  const value = fields[key] ?? 0;
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0) throw new FrameError(`${key} is not a number`);
  return value;
}

function flagIn(fields: Fields, key: string): boolean {
  const value = fields[key] ?? false;
  if (typeof value !== "boolean") throw new FrameError(`${key} is neither true nor false`);
  return value;
}

function listIn(fields: Fields, key: string): readonly Fields[] {
  const value = fields[key] ?? [];
  if (!Array.isArray(value) || !value.every(isRecord)) throw new FrameError(`${key} is not a list of objects`);
  return value;
}
