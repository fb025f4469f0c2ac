// The left column: who this is and whether there is a connection; which conversations there are.

import { isGroup } from "/diary.js";
import { $, avatarOf, element, paint, reconcile, setText } from "/dom.js";
import { nameOf } from "/identity.js";
import { page } from "/page.js";
import { contentText, eventText, shortTime, typingWords } from "/words.js";

const PREVIEW_CHARACTERS = 120;

/** What a conversation is called. */
export function titleOf(key) {
  return isGroup(key) ? page.link.diary.with(key).title || "Group" : nameOf(key);
}

let countdown;

export function drawStatus() {
  const { link } = page;
  const texts = {
    live: "Connected",
    connecting: link.failures > 0 ? "Reconnecting…" : "Connecting…",
    waiting: navigator.onLine === false ? "Offline" : "Reconnecting…",
    stopped: "Not connected",
  };
  setText($("status"), texts[link.state]);
  $("status").className = `status ${link.state === "live" ? "live" : link.state === "stopped" ? "off" : ""}`;
  setText($("my-name"), link.identity.name);
  paint($("my-avatar"), link.identity.user, link.identity.name);

  const isStopped = link.state === "stopped";
  const isTroubled = isStopped || (link.failures > 0 && link.state !== "live");
  $("trouble").hidden = !isTroubled;
  if (isTroubled) {
    const seconds = Math.max(0, Math.ceil((link.retryAt - Date.now()) / 1000));
    const away =
      seconds > 1 ? `The server is away. Trying again in ${seconds} s.` : "The server is away. Trying again…";
    setText($("trouble-text"), isStopped ? link.why : away);
    $("trouble-retry").hidden = link.state === "connecting";
    setText($("trouble-retry"), !isStopped ? "Try now" : link.canResume ? "Connect here" : "Sign in anew");
  }
  clearTimeout(countdown);
  if (link.state === "waiting") countdown = setTimeout(() => page.later(), 1000);
}

let rows = new Map();

export function drawList() {
  const { link } = page;
  const { diary } = link;
  const entries = diary.keys().map(entryOf);
  entries.sort((one, two) => two.time - one.time);
  const shown = page.key === null ? [] : [page.key, ...diary.others(page.key)];
  link.watch([...shown, ...entries.map(({ key }) => key)].filter((key) => !isGroup(key)));
  rows = reconcile(
    $("conversations"),
    rows,
    entries.map((entry) => ({ key: entry.key, look: JSON.stringify(entry), fill: (node) => fill(node, entry) })),
  );
  $("no-conversations").hidden = entries.length > 0;
  const unread = entries.reduce((sum, { unread }) => sum + unread, 0);
  document.title = unread ? `(${unread}) Holdfast` : "Holdfast";
}

/** Everything by which an entry of the list looks as it does. */
function entryOf(key) {
  const { link } = page;
  const { diary } = link;
  const { user } = diary;
  const conversation = diary.conversations.get(key);
  const { messages, begun, gone } = conversation;
  const unsent = diary.outbox.findLast(({ key: to, frame }) => to === key && frame.send);
  const happened = messages.at(-1);
  // What somebody has said counts; where nobody has, what has happened.
  const last = conversation.last ?? happened;
  const isUnsent = unsent && unsent.time > (last?.time ?? 0);
  const time = Math.max(isUnsent ? unsent.time : 0, last?.time ?? 0, happened?.time ?? 0);
  let said = "No messages yet";
  if (gone) said = "You are not in this group any more";
  else if (isUnsent) said = `You: ${unsent.frame.send.body.text}`;
  else if (last) said = eventText(last, user, nameOf) ?? previewOf(last, isGroup(key), user);
  const writers = typingWords(link.writers(key).map(nameOf), isGroup(key));
  const there = isGroup(key) ? null : link.there(key);
  return {
    key,
    title: titleOf(key),
    // What nobody else knows of yet is on top.
    time: time || (begun ?? 0),
    when: time ? shortTime(time) : "",
    text: (writers || said).slice(0, PREVIEW_CHARACTERS),
    isWriting: writers !== "",
    unread: link.unread(key),
    online: there?.online ?? false,
    away: there?.away ?? false,
    gone,
    isOpen: key === page.key,
  };
}

function previewOf({ from, body, change }, isInGroup, me) {
  const text = change === "deleted" ? "Message deleted" : contentText(body);
  if (from === me) return `You: ${text}`;
  return isInGroup ? `${nameOf(from)}: ${text}` : text;
}

function fill(node, entry) {
  const { key, title, when, text, unread } = entry;
  const count = unread > 99 ? "99+" : String(unread);
  const badge = unread
    ? element(
        "span",
        { className: "unread", textContent: count },
        element("span", { className: "visually-hidden", textContent: " unread" }),
      )
    : null;
  const top = element(
    "span",
    { className: "line" },
    element("span", { className: "name", textContent: title }),
    element("span", { className: "when", textContent: when }),
  );
  const bottom = element(
    "span",
    { className: "line" },
    element("span", { className: "last", textContent: text }),
    badge,
  );
  bottom.classList.toggle("writing", entry.isWriting);
  const lines = element("span", { className: "lines" }, top, bottom);
  // The button stays, and with it the focus.
  const button = node.querySelector("button") ?? node.appendChild(element("button", { type: "button" }));
  button.replaceChildren(avatarOf(key, title, entry), lines);
  button.dataset.key = key;
  button.classList.toggle("news", unread > 0);
  button.classList.toggle("gone", entry.gone);
  if (entry.isOpen) button.setAttribute("aria-current", "true");
  else button.removeAttribute("aria-current");
}

/** Back from a conversation: the focus is where it came from. */
export function returnToList(key, before) {
  if (key === null) rows.get(before)?.querySelector("button").focus();
}

export function listenToList() {
  $("conversations").addEventListener("click", ({ target }) => {
    const key = target.closest("button")?.dataset.key;
    if (key) page.open(key);
  });
}
