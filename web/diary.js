// What one device of one user has, kept in the browser: how far it is, its conversations, and what waits to be sent.
//
// Which conversations there are and what is unread in them is the server's to say; the diary makes the same out of the
// inbox, entry by entry, and takes the server's own list at any time, before or after entries that are in it: what it
// counts by (ordinals, marks) only grows, and the rest carries the `rev` that it is of. Messages are kept as one run
// without a hole, from somewhere to the newest; what is older is there to be asked for.
//
// The one invariant: the cursor is written down together with what the entries up to it have said. So a tab that is
// closed at any moment loses nothing: the server sends the rest again.

import { compareIds } from "/holdfast-client.js";
import { browserDisk } from "/disk.js";

const VERSION = 2;
/** Messages kept per conversation; fewer when the browser has no room. The server has them all. */
const KEPT_MESSAGES = [200, 20, 0];
/** Changes kept per conversation of messages that are not here. */
const KEPT_CHANGES = 50;

/** A direct conversation is known by the other user's id, a group by its own. */
export const isGroup = (key) => key.startsWith("g");
/** What the protocol calls it. */
export const nameOfKey = (key) => (isGroup(key) ? key : `@${key}`);

/** It is something that somebody has said, perhaps taken back since. */
const isSaid = ({ body, change }) =>
  change !== undefined || body.text !== undefined || body.custom !== undefined || body.media !== undefined;

function rowOf(message, me) {
  const { messageId: id, sender: from, body = {} } = message;
  const row = { id, seq: Number(message.seq), from, time: Number(message.timeMs), body };
  if (message.replyTo !== undefined) row.replyTo = Number(message.replyTo);
  // In histories, lists and snapshots messages are as they are now.
  if (message.changedBy !== undefined) Object.assign(row, { changedBy: Number(message.changedBy), change: "edited" });
  if (Number(body.deleted?.seq) === row.seq) row.change = "deleted";
  // By this the view knows that it is the message which it has shown since it was written.
  if (message.sender === me) row.clientId = message.clientId;
  return row;
}

/** Sets what is not known from a later `rev`. */
function setAsOf(rev, conversation, fields) {
  for (const [name, value] of Object.entries(fields)) {
    if (compareIds(rev, conversation.asOf[name]) < 0) continue;
    conversation[name] = value;
    conversation.asOf[name] = rev;
  }
}

/** An edit or a deletion at its own place, which is no row: it changes another. */
const isChange = ({ seq, body }) => Number((body.edited ?? body.deleted)?.seq ?? seq) !== seq;

/** It stands in the view: neither a change of another, nor what is older than the conversation keeps. */
const isRow = (row) => !isChange(row) && row.body.expired === undefined;

export class Diary {
  constructor(user, device) {
    this.user = user;
    this.key = `holdfast.diary.${user}.${device}`;
    const kept = browserDisk.read(this.key);
    const { cursor = null, isListed = false, conversations = {}, outbox = [] } = kept?.version === VERSION ? kept : {};
    /** The last `rev` that is here, as text: it may be larger than a double is exact. Null: a new device. */
    this.cursor = cursor;
    this.savedCursor = cursor;
    /** Whether all conversations are here, as the server has listed them. */
    this.isListed = isListed;
    this.conversations = new Map(Object.entries(conversations));
    /** Requests `{clientId, key, frame, time, state, seq, why}` in the order in which they were made: sent, but not
     *  seen in the inbox yet. `state` is `sending`, `accepted` (with its `seq`) or `failed` (and why). */
    this.outbox = outbox;
  }

  with(key) {
    let conversation = this.conversations.get(key);
    if (!conversation) {
      conversation = {
        // The run of events that is here: its first and last `seq`, 0 for none; whether nothing is before it.
        from: 0,
        seq: 0,
        isComplete: false,
        messages: [],
        /** Changes of messages that are not here: an answer that is on its way may have these as they were. */
        changes: [],
        /** The last that somebody has said. */
        last: null,
        /** How many messages there are, and how many of them are not unread. */
        ordinal: 0,
        seen: 0,
        /** Up to which `seq` this user has read, and the others: user → `{read, delivered}`. */
        read: 0,
        marks: {},
        /** Of a group; and the `rev` that each of these is of. */
        title: "",
        role: "MEMBER",
        gone: false,
        asOf: { title: "0", role: "0", gone: "0" },
        /** Who is in it, when that is known: `{seq, members: {user: role}}`; and the last event that changed it. */
        group: null,
        groupSeq: 0,
      };
      this.conversations.set(key, conversation);
    }
    return conversation;
  }

  /** The user begins a conversation; nobody else knows of it yet. */
  begin(key) {
    this.with(key).begun ??= Date.now();
  }

  /** The keys of all conversations that there are: not of one that was only looked for. */
  keys() {
    return [...this.conversations].filter(([, { begun, asOf }]) => begun || asOf.gone !== "0").map(([key]) => key);
  }

  keyOf(name) {
    return isGroup(name) ? name : (name.split(":").find((member) => member !== this.user) ?? this.user);
  }

  /** What the client goes on from. */
  kept() {
    const sending = this.outbox.filter(({ state }) => state === "sending");
    return { cursor: this.cursor, outbox: sending.map(({ frame }) => frame) };
  }

  // The inbox.

  /** Takes the next entry. */
  take(rev, { message, read }) {
    this.cursor = rev;
    if (message) this.#takeMessage(rev, message);
    if (read) {
      const conversation = this.with(this.keyOf(read.conversation));
      conversation.read = Math.max(conversation.read, Number(read.upTo));
      conversation.seen = Math.max(conversation.seen, Number(read.ordinal));
    }
  }

  #takeMessage(rev, message) {
    const key = this.keyOf(message.conversation);
    const conversation = this.with(key);
    const row = rowOf(message, this.user);
    const isOwn = row.from === this.user;
    const ordinal = Number(message.ordinal ?? message.seq);
    this.#changeState(conversation, rev, row);
    conversation.ordinal = Math.max(conversation.ordinal, ordinal);
    // What was before the user came, or came back, is no news, nor what is before a message of one's own.
    if (isOwn || this.#comes(row)) conversation.seen = Math.max(conversation.seen, ordinal);
    if (isOwn) {
      this.outbox = this.outbox.filter((entry) => entry.clientId !== message.clientId || (entry.key ?? key) !== key);
    }
    this.#changeMembers(conversation, row);
    this.#append(conversation, row);
  }

  /** By this event the user is in the group, perhaps again. */
  #comes({ body }) {
    return body.groupCreated !== undefined || body.membersAdded?.users.includes(this.user) === true;
  }

  /** What the group is called, and what the user is in it. */
  #changeState(conversation, rev, { from, body }) {
    const { groupCreated, membersAdded, memberRemoved, memberLeft, renamed, roleSet } = body;
    const title = (groupCreated ?? membersAdded ?? renamed)?.title;
    if (title) setAsOf(rev, conversation, { title });
    if (this.#comes({ body })) setAsOf(rev, conversation, { role: from === this.user ? "OWNER" : "MEMBER" });
    if (roleSet?.user === this.user) setAsOf(rev, conversation, { role: roleSet.role });
    if (memberLeft?.newOwner === this.user) setAsOf(rev, conversation, { role: "OWNER" });
    const gone = memberRemoved?.user === this.user || (memberLeft !== undefined && from === this.user);
    setAsOf(rev, conversation, { gone });
  }

  #changeMembers(conversation, { seq, from, body }) {
    const { groupCreated, membersAdded, memberRemoved, memberLeft, roleSet } = body;
    if (!(groupCreated ?? membersAdded ?? memberRemoved ?? memberLeft ?? roleSet)) return;
    conversation.groupSeq = Math.max(conversation.groupSeq, seq);
    if (groupCreated && !conversation.group) {
      const members = Object.fromEntries(groupCreated.members.map((user) => [user, "MEMBER"]));
      conversation.group = { seq, members: { ...members, [from]: "OWNER" } };
    }
    const { group, marks } = conversation;
    if (!group || seq <= group.seq) return;
    if (membersAdded?.users.includes(this.user)) {
      // Others have come and gone while the user was out.
      conversation.group = null;
      return;
    }
    group.seq = seq;
    for (const user of membersAdded?.users ?? []) group.members[user] ??= "MEMBER";
    const gone = memberRemoved?.user ?? (memberLeft && from);
    if (gone) {
      delete group.members[gone];
      delete marks[gone];
    }
    if (memberLeft?.newOwner) group.members[memberLeft.newOwner] = "OWNER";
    if (roleSet && group.members[roleSet.user]) group.members[roleSet.user] = roleSet.role;
  }

  /** The next event of a conversation, or one that is in its run already. */
  #append(conversation, row) {
    const { body, seq } = row;
    if (isChange(row) && !this.#change(conversation, row))
      conversation.changes = [...conversation.changes, row].slice(-KEPT_CHANGES);
    if (isSaid(row) && seq > (conversation.last?.seq ?? 0)) conversation.last = { ...row };
    if (seq <= conversation.seq) return;
    // The first, or events between are not here: the run begins anew.
    if (conversation.from === 0 || seq > conversation.seq + 1)
      Object.assign(conversation, { from: seq, messages: [], isComplete: seq === 1 });
    if (body.groupCreated) conversation.isComplete = true;
    conversation.seq = seq;
    if (isRow(row)) conversation.messages.push(row);
  }

  /** True if the message is in the run. */
  #change(conversation, { seq, body }) {
    const { edited, deleted } = body;
    const target = Number((edited ?? deleted).seq);
    const { messages, last } = conversation;
    const here = messages.find((row) => row.seq === target);
    for (const row of [here, last?.seq === target ? last : null]) {
      if (!row || (row.changedBy ?? 0) >= seq) continue;
      Object.assign(row, {
        body: edited?.content ?? { deleted },
        change: edited ? "edited" : "deleted",
        changedBy: seq,
      });
    }
    return here !== undefined;
  }

  // What the server says about whole conversations.

  /** A part of the list of all conversations. */
  takeList({ conversations, rev, end }, listed) {
    for (const state of conversations) {
      const key = this.keyOf(state.conversation);
      listed.add(key);
      this.#takeState(this.with(key), state, rev);
    }
    if (!end) return;
    this.isListed = true;
    for (const [key, { begun, asOf }] of this.conversations) {
      const isOlder = compareIds(asOf.gone, rev) <= 0;
      if (!begun && isOlder && !listed.has(key)) this.conversations.delete(key);
    }
  }

  /** All conversations as they were at a `rev`, instead of the entries up to it. */
  takeSnapshot({ conversations, rev }) {
    const before = this.conversations;
    this.conversations = new Map([...before].filter(([, { begun }]) => begun));
    for (const state of conversations) {
      const key = this.keyOf(state.conversation);
      this.conversations.delete(key);
      const conversation = this.with(key);
      conversation.marks = before.get(key)?.marks ?? {};
      this.#takeState(conversation, state, rev);
      for (const message of state.messages) {
        this.#append(conversation, rowOf(message, this.user));
      }
    }
    // Accepted, and not to be seen as an entry any more.
    this.outbox = this.outbox.filter(({ key, seq }) => !(seq <= (this.conversations.get(key)?.seq ?? 0)));
    this.cursor = rev;
    this.isListed = true;
  }

  #takeState(conversation, { unread, read, title, role, gone, messages }, rev) {
    const last = messages.at(-1);
    const ordinal = Number(last?.ordinal ?? last?.seq ?? 0);
    conversation.ordinal = Math.max(conversation.ordinal, ordinal);
    conversation.seen = Math.max(conversation.seen, ordinal - Number(unread));
    conversation.read = Math.max(conversation.read, Number(read));
    setAsOf(rev, conversation, { title, role, gone });
    const said = messages.map((message) => rowOf(message, this.user)).findLast(isSaid);
    if (!said) return;
    const { seq, changedBy = 0 } = conversation.last ?? { seq: 0 };
    if (said.seq > seq || (said.seq === seq && (said.changedBy ?? 0) > changedBy)) conversation.last = said;
    for (const row of conversation.changes) this.#change(conversation, row);
  }

  /** The part of a conversation that was asked for: before `before`, or (0) the newest. */
  takeHistory(key, { messages, end }, before) {
    const conversation = this.with(key);
    const lastSeq = before > 0 ? before - 1 : Number(messages.at(-1)?.seq ?? 0);
    // The run has begun anew meanwhile; what is now before it has to be asked for.
    if (conversation.from > 0 && lastSeq < conversation.from - 1) return;
    const rows = messages
      .map((message) => rowOf(message, this.user))
      .filter(({ seq }) => conversation.from === 0 || seq < conversation.from);
    conversation.messages.unshift(...rows.filter(isRow));
    if (messages.length > 0) conversation.from = Math.min(conversation.from || Infinity, Number(messages[0].seq));
    conversation.seq = Math.max(conversation.seq, Number(messages.at(-1)?.seq ?? 0));
    for (const row of conversation.changes) this.#change(conversation, row);
    if (end) conversation.isComplete = true;
  }

  /** Who is in a group, unless something has happened in it since. */
  takeGroup({ conversation: key, title, members, seq }) {
    const conversation = this.with(key);
    if (Number(seq) < conversation.groupSeq) return;
    conversation.group = {
      seq: Number(seq),
      members: Object.fromEntries(members.map(({ user, role }) => [user, role])),
    };
    conversation.title ||= title;
  }

  /** How far others have got and read a conversation, and how far this user has read it. */
  takeMarks({ conversation: name, members }) {
    const conversation = this.with(this.keyOf(name));
    for (const { user, read, delivered } of members) {
      const { marks } = conversation;
      const known = marks[user] ?? { read: 0, delivered: 0 };
      marks[user] = {
        read: Math.max(known.read, Number(read)),
        delivered: Math.max(known.delivered, Number(delivered)),
      };
      if (user === this.user) conversation.read = Math.max(conversation.read, Number(read));
    }
  }

  /** Everybody in a conversation but this user, as far as that is known. */
  others(key) {
    if (!isGroup(key)) return [key];
    return Object.keys(this.conversations.get(key)?.group?.members ?? {}).filter((user) => user !== this.user);
  }

  // Keeping it.

  /** Writes everything down; true when it is. */
  save() {
    const { cursor, isListed, outbox } = this;
    const write = (count) => {
      const conversations = Object.fromEntries(
        this.keys().map((key) => [key, cut(this.conversations.get(key), count)]),
      );
      return browserDisk.write(this.key, { version: VERSION, cursor, isListed, conversations, outbox });
    };
    if (!KEPT_MESSAGES.some(write)) return false;
    this.savedCursor = cursor;
    return true;
  }

  /** The server's inbox is younger than ours: its data directory is another one. */
  startOver() {
    this.cursor = "0";
    this.isListed = false;
    this.conversations.clear();
    this.save();
  }
}

/** A conversation with its last messages only; with none, also without what the server tells when it is opened. */
function cut(conversation, count) {
  const { messages } = conversation;
  if (count === 0) {
    const nothing = { from: 0, seq: 0, messages: [], isComplete: false, changes: [], marks: {}, group: null };
    return { ...conversation, ...nothing };
  }
  if (messages.length <= count) return conversation;
  const kept = messages.slice(-count);
  return { ...conversation, messages: kept, from: kept[0].seq, isComplete: false };
}
