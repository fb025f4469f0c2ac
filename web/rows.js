// What an open conversation shows, row by row: days, what has happened, what was said and what is on its way. Words and
// choices only; message.js makes elements of them.

import { isGroup } from "/diary.js";
import { nameOf } from "/identity.js";
import { contentText, dayOf, eventText } from "/words.js";

/** A message after such a pause begins anew, with its sender's name. */
const PAUSE_MS = 10 * 60_000;

/**
 * The rows of a conversation, from top to bottom: `{key, kind: "day" | "event", text}`, and for what somebody has said
 * `{key, kind: "message", message, mine, can, shown}`, where `can` is what may be done with it. Whoever blocks the
 * other one (`isBlocked`) writes nothing, but may take back.
 */
export function rowsOf(diary, key, isBlocked) {
  const conversation = diary.with(key);
  const me = diary.user;
  const outbox = diary.outbox.filter((entry) => entry.key === key);
  /** Changes on their way: the message's `seq` → the request. */
  const changes = new Map();
  for (const { frame } of outbox) {
    if (frame.edit) changes.set(Number(frame.edit.seq), { change: "edited", body: frame.edit.content });
    if (frame.delete) changes.set(Number(frame.delete.seq), { change: "deleted", body: {} });
  }
  const unsent = outbox
    .filter(({ frame }) => frame.send)
    .map((entry) => ({
      clientId: entry.clientId,
      from: me,
      time: entry.time,
      body: entry.frame.send.body,
      replyTo: entry.frame.send.replyTo && Number(entry.frame.send.replyTo),
      unsent: entry,
    }));
  const bySeq = new Map(conversation.messages.map((message) => [message.seq, message]));
  const marks = marksOf(diary, key);
  const rows = [];
  let day = null;
  let before = null;
  for (const kept of [...conversation.messages, ...unsent]) {
    const pending = changes.get(kept.seq);
    const message = pending ? { ...kept, ...pending } : kept;
    const messageDay = dayOf(message.time);
    const rowKey = message.clientId ? `own ${message.clientId}` : message.id;
    if (messageDay !== day) {
      day = messageDay;
      before = null;
      rows.push({ key: `day ${rowKey}`, kind: "day", text: day });
    }
    const event = eventText(message, me, nameOf);
    if (event !== null) {
      rows.push({ key: rowKey, kind: "event", text: event });
      before = null;
      continue;
    }
    const isFirst = before === null || before.from !== message.from || message.time - before.time > PAUSE_MS;
    const mine = message.from === me;
    const isDeleted = message.change === "deleted";
    const isThere = !message.unsent && !conversation.gone;
    const can = {
      reply: isThere && !isBlocked && !isDeleted,
      edit: isThere && !isBlocked && mine && !isDeleted && message.body.text !== undefined,
      delete: isThere && !isDeleted && (mine || (isGroup(key) && conversation.role !== "MEMBER")),
      readers: isThere && mine && isGroup(key),
    };
    const shown = {
      isFirst,
      mine,
      sender: !mine && isGroup(key) ? nameOf(message.from) : "",
      text: isDeleted ? "Message deleted" : contentText(message.body),
      change: message.change,
      hasMenu: Object.values(can).some(Boolean),
      state: message.unsent?.state ?? (pending ? "changing" : "delivered"),
      why: message.unsent?.why,
      marks: mine ? marks(message.seq) : null,
      quote:
        message.replyTo && !isDeleted
          ? quoteOf({ ...bySeq.get(message.replyTo), ...changes.get(message.replyTo) }, me)
          : null,
    };
    rows.push({ key: rowKey, kind: "message", message, mine, can, shown });
    before = message;
  }
  sayReadersOnce(rows);
  return rows;
}

/**
 * By the `seq` of a message of one's own, or undefined while it has none: `{ticks, readers, said}`. One tick (`sent`):
 * it is on the server; two (`arrived`): at everybody else in the conversation; two that shine (`read`): they have all
 * read it. In a group, `readers` says how many have.
 */
function marksOf(diary, key) {
  const { marks } = diary.with(key);
  const others = diary.others(key).map((user) => marks[user] ?? { read: 0, delivered: 0 });
  return (seq) => {
    const readers = others.filter(({ read }) => read >= seq).length;
    // Of a group of which the members are not known yet, nothing is known.
    const isAll = (count) => count > 0 && count === others.length;
    const isArrived = isAll(others.filter(({ delivered }) => delivered >= seq).length);
    return {
      ticks: isAll(readers) ? "read" : isArrived ? "arrived" : "sent",
      readers: isGroup(key) ? readers : 0,
      said: "",
    };
  };
}

/** The words "read by 3" stand at the last of the messages of which that is true; the others have their ticks. */
function sayReadersOnce(rows) {
  let said = 0;
  for (const { shown } of rows.toReversed()) {
    const { marks } = shown ?? {};
    if (!marks || marks.readers === 0 || marks.readers === said) continue;
    said = marks.readers;
    marks.said = marks.ticks === "read" ? "read by all" : `read by ${said}`;
  }
}

/** Of a message that is not here, only that there is one. */
function quoteOf({ from, body, change }, me) {
  if (!from) return { who: "", text: "An earlier message" };
  return {
    who: from === me ? "You" : nameOf(from),
    from,
    text: change === "deleted" ? "Message deleted" : contentText(body),
  };
}
