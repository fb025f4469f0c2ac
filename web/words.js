// How things are said: times, presence, what has happened in a group.

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const calendar = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const shortDay = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const weekday = new Intl.DateTimeFormat(undefined, { weekday: "short" });
/** Of many names so many are said. */
const NAMES_SAID = 3;

function daysAgo(time) {
  return Math.round((new Date().setHours(0, 0, 0, 0) - new Date(time).setHours(0, 0, 0, 0)) / 86_400_000);
}

export const clockTime = (time) => clock.format(time);

export function dayOf(time) {
  const days = daysAgo(time);
  if (days === 0) return "Today";
  if (days === 1) return "Yesterday";
  return calendar.format(time);
}

/** As short as a list has room for. */
export function shortTime(time) {
  const days = daysAgo(time);
  if (days <= 0) return clock.format(time);
  return days < 7 ? weekday.format(time) : shortDay.format(time);
}

/** Whether somebody is there. */
export function presenceWords(there) {
  if (there === null) return "";
  if (there.online) return there.away ? "away" : "online";
  if (there.lastSeenMs === undefined) return "";
  const seen = Number(there.lastSeenMs);
  return `last seen ${daysAgo(seen) === 0 ? clock.format(seen) : `${shortDay.format(seen)}, ${clock.format(seen)}`}`;
}

/** "Ana", "Ana and Ben", "Ana, Ben, Cleo and 4 others". */
export function listWords(all) {
  const said = all.length > NAMES_SAID + 1 ? [...all.slice(0, NAMES_SAID), `${all.length - NAMES_SAID} others`] : all;
  return said.length < 2 ? said.join("") : `${said.slice(0, -1).join(", ")} and ${said.at(-1)}`;
}

/** Who is writing; in a conversation of two there is no need to say who. */
export function typingWords(writers, isGroup) {
  if (writers.length === 0) return "";
  if (!isGroup) return "writing…";
  return `${listWords(writers)} ${writers.length > 1 ? "are" : "is"} writing…`;
}

export const ROLE_WORDS = { OWNER: "Owner", ADMIN: "Admin", MEMBER: "Member" };
const ROLE_TAKEN = { OWNER: "an owner", ADMIN: "an admin", MEMBER: "a member" };

/** What a message says. */
export function contentText(body) {
  if (body.text !== undefined) return body.text;
  if (body.media) return body.media.caption || body.media.name || `(${body.media.contentType})`;
  const type = body.custom?.contentType ?? "something newer";
  return `(${type}, which this page cannot show)`;
}

/** What has happened to a group, or null if this was something that somebody has said. */
export function eventText({ from, body }, me, nameOf) {
  const who = from === me ? "You" : nameOf(from);
  const whom = (user) => (user === me ? (from === me ? "yourself" : "you") : nameOf(user));
  if (body.groupCreated) {
    const { title, members } = body.groupCreated;
    const others = members.filter((user) => user !== from).map(whom);
    return `${who} made the group “${title}”${others.length > 0 ? ` with ${listWords(others)}` : ""}`;
  }
  if (body.membersAdded) return `${who} added ${listWords(body.membersAdded.users.map(whom))}`;
  if (body.memberRemoved) return `${who} removed ${whom(body.memberRemoved.user)}`;
  if (body.memberLeft) {
    const { newOwner } = body.memberLeft;
    const heir = newOwner === me ? "; you own the group now" : `; ${newOwner && nameOf(newOwner)} owns the group now`;
    return `${who} left${newOwner ? heir : ""}`;
  }
  if (body.renamed) return `${who} renamed the group to “${body.renamed.title}”`;
  if (body.retentionSet) {
    const { days } = body.retentionSet;
    if (days === 0) return `${who} let the group keep its messages`;
    return `${who} let the group keep its messages for ${days === 1 ? "a day" : `${days} days`}`;
  }
  if (body.roleSet) return `${who} made ${whom(body.roleSet.user)} ${ROLE_TAKEN[body.roleSet.role]}`;
  return null;
}
