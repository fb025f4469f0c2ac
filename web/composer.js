// Where the user writes: a message, an answer to one, or a change of one.

import { $, say, setText } from "/dom.js";
import { nameOf } from "/identity.js";
import { page } from "/page.js";
import { lastOwnMessage, toEnd } from "/thread.js";
import { contentText } from "/words.js";

/** Per conversation what was begun: `{text, replyTo, editing}`; the latter two are messages. */
const drafts = new Map();
let draft = { text: "", replyTo: null, editing: null };

const isRoomy = () => matchMedia("(min-width: 46rem)").matches;

export function fitComposer() {
  const text = $("text");
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight + 2}px`;
}

function write(text) {
  $("text").value = text;
  fitComposer();
}

/** Says what the text will be: an answer, a change, or (hidden) just a message. */
function showContext() {
  const { replyTo, editing } = draft;
  const message = editing ?? replyTo;
  $("context").hidden = message === null;
  $("composer").classList.toggle("editing", editing !== null);
  $("send").setAttribute("aria-label", editing ? "Save" : "Send");
  if (message === null) return;
  const isMine = message.from === page.link.diary.user;
  setText($("context-what"), editing ? "Edit message" : `Answer ${isMine ? "yourself" : nameOf(message.from)}`);
  setText($("context-text"), contentText(message.body));
}

export function answer(message) {
  if (draft.editing) cancel();
  draft.replyTo = message;
  showContext();
  $("text").focus();
}

export function edit(message) {
  // What was begun waits until the change is done.
  draft = { text: draft.editing ? draft.text : $("text").value, replyTo: null, editing: message };
  write(message.body.text);
  showContext();
  $("text").focus();
}

/** Neither an answer nor a change; what was begun before the change is there again. */
function cancel() {
  if (draft.editing) write(draft.text);
  draft = { text: "", replyTo: null, editing: null };
  showContext();
}

function submit() {
  const { link, key } = page;
  const text = $("text").value.trim();
  if (!text || key === null) return;
  const bytes = new TextEncoder().encode(text).length;
  const most = link.client.messageBytesMax;
  if (bytes > most) {
    say("composer-hint", `${bytes.toLocaleString()} bytes; a message has at most ${most.toLocaleString()}.`);
    return;
  }
  say("composer-hint", "");
  const { editing, replyTo } = draft;
  if (editing) {
    if (text !== editing.body.text) link.edit(key, editing.seq, text);
    cancel();
  } else {
    link.send(key, text, replyTo?.seq);
    write("");
    cancel();
    page.draw();
    toEnd();
  }
  $("text").focus();
}

/** Another conversation is open: what was begun there is kept, what was begun here is there again. */
export function changeComposer(key, before) {
  if (before !== null) {
    drafts.set(before, { ...draft, shown: $("text").value });
    page.link?.writing(before, false);
  }
  const { shown = "", ...begun } = drafts.get(key) ?? { text: "", replyTo: null, editing: null };
  draft = begun;
  write(shown);
  say("composer-hint", "");
  showContext();
}

/** On a phone the text would bring up its keyboard; and sometimes there is nothing to be written. */
export function focusComposer(key) {
  if (key !== null) $(isRoomy() && $("text").checkVisibility() ? "text" : "scroll").focus();
}

export function listenToComposer() {
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  $("text").addEventListener("input", () => {
    fitComposer();
    say("composer-hint", "");
    if (page.key !== null && !draft.editing) page.link.writing(page.key, $("text").value.trim() !== "");
  });
  $("text").addEventListener("keydown", (event) => {
    // On a touch screen Enter is for new lines; there is a button beside it.
    const sends =
      event.key === "Enter" && !event.shiftKey && !event.isComposing && !matchMedia("(pointer: coarse)").matches;
    if (sends) {
      event.preventDefault();
      $("composer").requestSubmit();
    }
    // As in other chats: the last message of one's own.
    if (event.key === "ArrowUp" && $("text").value === "" && !draft.editing) {
      const message = lastOwnMessage();
      if (!message) return;
      event.preventDefault();
      edit(message);
    }
  });
  $("pane").addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || event.isComposing || $("context").hidden) return;
    event.preventDefault();
    cancel();
    $("text").focus();
  });
  $("context-cancel").addEventListener("click", () => {
    cancel();
    $("text").focus();
  });
}
