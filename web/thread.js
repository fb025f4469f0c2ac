// The open conversation: its head, its messages from top to bottom, and older ones as the reader scrolls up.

import { isGroup } from "/diary.js";
import { $, paint, reconcile, setText } from "/dom.js";
import { nameOf } from "/identity.js";
import { titleOf } from "/list.js";
import { fillRow, lookOf } from "/message.js";
import { page } from "/page.js";
import { rowsOf } from "/rows.js";
import { presenceWords, typingWords } from "/words.js";

/** Nearer to the end than this, the reader is at the end and stays there; nearer to the top, older messages are got. */
const AT_END_PIXELS = 80;
const AT_TOP_PIXELS = 400;

const thread = {
  /** What is drawn now: its key, its first message, nodes by row, and rows by node. */
  key: null,
  first: null,
  nodes: new Map(),
  rows: new Map(),
};

/** The row that a node of the list of messages stands for; only of messages. */
export const rowAt = (node) => thread.rows.get(node.closest("li.message"));

/** What the user has said last in the open conversation and may change. */
export const lastOwnMessage = () => [...thread.rows.values()].findLast(({ can }) => can?.edit)?.message;

// Drawing.

export function drawThread() {
  const { link, key } = page;
  $("app").classList.toggle("open", key !== null);
  $("pane").classList.toggle("nobody", key === null);
  $("no-messages").hidden = key !== null;
  if (key === null) {
    show(null, []);
    setText($("title"), "Holdfast");
    setText($("no-messages"), "Choose a conversation, or start one.");
    return;
  }
  if (page.isLookingAt(key)) link.looking(key);
  link.askWhoIsIn(key);
  drawHead(key);
  const conversation = link.diary.with(key);
  $("pane").classList.toggle("gone", conversation.gone);
  const rows = rowsOf(link.diary, key, link.people.isBlocked(key));
  show(key, rows);
  getOlder();
  $("no-messages").hidden = rows.length > 0 || conversation.gone || link.loading.has(key);
  setText($("no-messages"), `Say hello to ${titleOf(key)}.`);
}

function drawHead(key) {
  const { link } = page;
  const title = titleOf(key);
  setText($("title"), title);
  paint($("other-avatar"), key, title);
  const typing = typingWords(link.writers(key).map(nameOf), isGroup(key));
  setText($("typing"), typing);
  const isBlocked = link.people.isBlocked(key);
  const there = isGroup(key) || isBlocked ? null : link.there(key);
  const words = isGroup(key) ? groupWords(key) : isBlocked ? "blocked" : presenceWords(there);
  setText($("presence"), typing ? "" : words);
  $("presence").classList.toggle("live", there?.online === true && !there.away);
  $("presence").classList.toggle("plain", there?.online !== true);
  // What opens is who is in it; of two that is known.
  $("about").disabled = !isGroup(key) || link.diary.with(key).gone;
  $("about").title = isGroup(key) ? "Who is in this group" : "";
}

function groupWords(key) {
  const { link } = page;
  const { group, gone } = link.diary.with(key);
  if (gone || !group) return "";
  const count = Object.keys(group.members).length;
  const online = link.diary.others(key).filter((user) => link.there(user)?.online).length;
  return `${count} ${count === 1 ? "member" : "members"}${online > 0 ? `, ${online} online` : ""}`;
}

/** Changes the nodes, and keeps what the reader looks at where it is. */
function show(key, rows) {
  const scroll = $("scroll");
  const list = $("messages");
  const isOther = thread.key !== key;
  const isAtEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < AT_END_PIXELS;
  const anchor =
    isOther || isAtEnd
      ? null
      : [...list.children].find((node) => node.offsetTop + node.offsetHeight > scroll.scrollTop);
  const wasAt = anchor?.offsetTop;
  if (isOther) {
    list.replaceChildren();
    thread.nodes = new Map();
  }
  const lastBefore = list.lastElementChild;
  // History is not news: a screen reader must not read it aloud.
  const isNews = !isOther && (thread.first === null || thread.first === firstOf(rows));
  list.setAttribute("aria-live", isNews ? "polite" : "off");
  const had = new Set(thread.nodes.values());
  const drawn = rows.map((row) => ({ key: row.key, look: lookOf(row), fill: (node) => fillRow(node, row) }));
  thread.nodes = reconcile(list, thread.nodes, drawn);
  thread.rows = new Map(rows.map((row) => [thread.nodes.get(row.key), row]));
  thread.key = key;
  thread.first = firstOf(rows);
  if (!isOther) {
    for (let node = list.lastElementChild; node && node !== lastBefore; node = node.previousElementSibling) {
      if (!had.has(node)) node.classList.add("fresh");
    }
  }
  if (isOther || isAtEnd) toEnd();
  else if (anchor?.isConnected) scroll.scrollTop += anchor.offsetTop - wasAt;
  // One of the buttons is reached by Tab; from there the arrows lead to the others.
  const buttons = [...list.querySelectorAll(".more:not([hidden])")];
  const current = buttons.find((button) => button === document.activeElement) ?? buttons.at(-1);
  for (const button of buttons) button.tabIndex = button === current ? 0 : -1;
  drawNewer();
}

/** The day stands before it, whatever comes in between. */
const firstOf = (rows) => rows.find(({ kind }) => kind !== "day")?.key ?? null;

export function toEnd() {
  $("scroll").scrollTop = $("scroll").scrollHeight;
}

function drawNewer() {
  const { scrollHeight, scrollTop, clientHeight } = $("scroll");
  $("newer").hidden = scrollHeight - scrollTop - clientHeight < clientHeight;
}

function getOlder() {
  const { link, key } = page;
  if (key !== null && $("scroll").scrollTop < AT_TOP_PIXELS) link.older(key);
  $("older").hidden = key === null || !link.loading.has(key);
}

/** Scrolls to a message, and gets it first if it is further back. */
export async function reveal(seq) {
  const { key, link } = page;
  const isHere = () => link.diary.with(key).from <= seq;
  while (!isHere() && (await link.older(key)));
  if (page.key !== key) return;
  page.draw();
  const [node] = [...thread.rows].find(([, row]) => row.message?.seq === seq) ?? [];
  node?.scrollIntoView({ block: "center" });
  node?.classList.remove("found");
  // Read, so that the animation begins anew.
  void node?.offsetWidth;
  node?.classList.add("found");
}

// Listening.

export function listenToThread() {
  const scroll = $("scroll");
  let isAtEnd = true;
  scroll.addEventListener(
    "scroll",
    () => {
      isAtEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < AT_END_PIXELS;
      if (!page.link) return;
      getOlder();
      drawNewer();
    },
    { passive: true },
  );
  // The keyboard of a phone comes and goes, and the text grows: whoever is at the end stays there.
  new ResizeObserver(() => isAtEnd && toEnd()).observe(scroll);
  $("newer").addEventListener("click", toEnd);
  $("messages").addEventListener("click", ({ target }) => {
    const quote = target.closest(".quote");
    if (quote) reveal(Number(quote.dataset.seq));
  });
  $("messages").addEventListener("keydown", (event) => {
    if (!event.target.matches(".more")) return;
    const buttons = [...$("messages").querySelectorAll(".more:not([hidden])")];
    const at = buttons.indexOf(event.target);
    const to = { ArrowUp: at - 1, ArrowDown: at + 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (!buttons[to]) return;
    event.preventDefault();
    event.target.tabIndex = -1;
    buttons[to].tabIndex = 0;
    buttons[to].focus();
  });
}
