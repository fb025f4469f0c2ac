// The chat page of Holdfast, on the client library (clients/ts).
//
//   identity   who this tab is: a guest's name or a pasted token, and a device of its own
//   Diary      what this device has: its cursor, the messages up to it, and the outbox
//   Link       between diary, view and the library's client, which speaks to the server
//   view       the document
//
// The one invariant: the cursor is written down together with the messages up to it, and the server is told
// (`ack`) only afterwards. So a tab that is closed at any moment loses nothing: the server sends the rest again.

import { Client } from "/holdfast-client.js";

/** User ids from here on belong to names; those below are numbers that somebody chose. */
const FIRST_NAMED_USER = 1n << 63n;
const KEPT_MESSAGES = 500;
const KEPT_MESSAGES_WHEN_FULL = 50;
/** How often a user who goes on writing says so, and how long others believe it. */
const TYPING_AGAIN_MS = 3000;
const TYPING_BELIEVED_MS = 6000;
/** How long what happens is collected before it is written down, and before others hear that it was read. */
const SAVE_AFTER_MS = 750;
const READ_AFTER_MS = 1000;
/** Conversations with something new of which a page that comes back asks who has read what. */
const ASKED_AT_ONCE = 8;
/** Others in the list who are watched; the server allows 500. */
const WATCHED_AT_ONCE = 200;

// ---------------------------------------------------------------------------------------------------- small things

const $ = (id) => document.getElementById(id);

/** An element with properties and children; text stays text. */
function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key in node) node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

function icon(path, label) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", width: 14, height: 14, "aria-hidden": "true" })) {
    svg.setAttribute(key, value);
  }
  const line = document.createElementNS(space, "path");
  const look = { d: path, fill: "none", stroke: "currentColor", "stroke-width": 2.4, "stroke-linecap": "round", "stroke-linejoin": "round" };
  for (const [key, value] of Object.entries(look)) line.setAttribute(key, value);
  svg.append(line);
  return [svg, element("span", { className: "visually-hidden", textContent: label })];
}

/** Text that no other device chooses by accident; works where `crypto.randomUUID` (secure pages only) does not. */
function randomText(bytes) {
  return [...crypto.getRandomValues(new Uint8Array(bytes))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Storage that may be full, forbidden or spoilt by somebody else; then there is none. */
const disk = (storage) => ({
  read(key) {
    try {
      return JSON.parse(storage().getItem(key));
    } catch {
      return null;
    }
  },
  write(key, value) {
    try {
      storage().setItem(key, JSON.stringify(value));
      return true;
    } catch {
      return false;
    }
  },
  forget(key) {
    try {
      storage().removeItem(key);
    } catch {
      // There is none, so there is nothing to forget.
    }
  },
});
const browserDisk = disk(() => localStorage);
const tabDisk = disk(() => sessionStorage);

class Problem extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/** A request to the HTTP API; errors are RFC 9457 problems. */
async function api(path, body) {
  const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options });
  } catch {
    throw new Problem("unreachable", "The server cannot be reached.");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Problem(answer.code ?? "http", answer.detail ?? `The server answered ${response.status}.`);
  return answer;
}

// -------------------------------------------------------------------------------------------------------- identity

/** Names of users, shared by all tabs of this browser. */
const names = {
  known: new Map(Object.entries(browserDisk.read("holdfast.names") ?? {})),
  asked: new Set(),

  learn(user, name) {
    if (this.known.get(user) === name) return;
    const others = browserDisk.read("holdfast.names") ?? {};
    this.known = new Map(Object.entries({ ...others, [user]: name }));
    browserDisk.write("holdfast.names", Object.fromEntries([...this.known].slice(-1000)));
    view.later();
  },

  of(user) {
    const known = this.known.get(user);
    if (known) return known;
    if (BigInt(user) < FIRST_NAMED_USER) return `User ${user}`;
    if (!this.asked.has(user)) {
      this.asked.add(user);
      api(`/v1/guest?user=${user}`).then((guest) => this.learn(user, guest.name), () => {});
    }
    return `Guest ${BigInt(user).toString(16).slice(-4)}`;
  },
};

/** Which device of this user this tab is: the one that it was before it was reloaded, else the first that no other
 *  tab of this browser is. A device is given back when its tab closes, so that few are ever made. */
async function claimDevice(user) {
  const browser = browserDisk.read("holdfast.browser") ?? randomText(3);
  browserDisk.write("holdfast.browser", browser);
  const own = tabDisk.read(`holdfast.device.${user}`);
  if (!navigator.locks) {
    const device = own ?? `web-${browser}-${randomText(2)}`;
    tabDisk.write(`holdfast.device.${user}`, device);
    return device;
  }
  const free = (device) =>
    new Promise((resolve) => {
      // The lock is held until the promise is kept, which it never is: until the tab closes.
      navigator.locks.request(`holdfast.${user}.${device}`, { ifAvailable: true }, (lock) => {
        resolve(lock !== null);
        return lock && new Promise(() => {});
      });
    });
  const candidates = Array.from({ length: 64 }, (_, index) => `web-${browser}-${index + 1}`);
  if (own) candidates.unshift(own);
  for (const device of candidates) {
    if (await free(device)) {
      tabDisk.write(`holdfast.device.${user}`, device);
      return device;
    }
  }
  throw new Problem("devices", "This name is open in too many tabs.");
}

/** The claims of a token, unverified: only to know whose diary to open. */
function claimsOf(token) {
  try {
    const base64 = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    const claims = JSON.parse(new TextDecoder().decode(bytes));
    if (/^[1-9][0-9]*$/.test(claims.sub)) return claims;
  } catch {
    // Falls through.
  }
  throw new Problem("token", "That is not a token. `holdfast token --user 42 --device laptop` prints one.");
}

/** Who may come in with a name. Renews its token by itself. */
async function guestIdentity(name) {
  const { user } = await api(`/v1/guest/${encodeURIComponent(name)}`);
  const device = await claimDevice(user);
  const renew = async () => (await api("/v1/guest", { name, device })).token;
  names.learn(user, name);
  return { user, name, device, token: await renew(), renew, remember: { name } };
}

async function tokenIdentity(token) {
  const { sub, dev } = claimsOf(token);
  return { user: sub, name: names.of(sub), device: dev ?? (await claimDevice(sub)), token, renew: null, remember: { token } };
}

// ----------------------------------------------------------------------------------------------------------- Diary

/** What one device of one user has, kept in the browser. */
class Diary {
  constructor(user, device) {
    this.user = user;
    this.key = `holdfast.diary.${user}.${device}`;
    const kept = browserDisk.read(this.key);
    /** The last `rev` that is here, as text: it may be larger than a double is exact. */
    this.cursor = kept?.cursor ?? "0";
    /** By the other user's id: `{messages, unread, read, theirRead}`; messages by `seq`; up to which this user and the
     *  other one have read. */
    this.conversations = new Map(Object.entries(kept?.conversations ?? {}));
    /** Sent, but not seen in the inbox yet, in the order in which it was written. */
    this.outbox = kept?.outbox ?? [];
    this.savedCursor = this.cursor;
  }

  with(other) {
    let conversation = this.conversations.get(other);
    if (!conversation) {
      conversation = { messages: [], unread: 0, read: 0, theirRead: 0 };
      this.conversations.set(other, conversation);
    }
    return conversation;
  }

  /** What the client goes on from. */
  kept() {
    const sending = this.outbox.filter(({ state }) => state === "sending");
    const outbox = sending.map(({ clientId, to, text }) => ({ send: { clientId, conversation: `@${to}`, body: { text } } }));
    return { cursor: this.cursor, outbox };
  }

  /** Takes the next inbox entry; gives what there is to show, or null. */
  take(rev, entry) {
    this.cursor = rev;
    const { message, read } = entry;
    // This page shows direct conversations only.
    const name = (message ?? read)?.conversation ?? "g";
    if (name.startsWith("g")) return null;
    const other = name.split(":").find((member) => member !== this.user) ?? this.user;
    if (read) {
      this.mark(other, this.user, Number(read.upTo));
      return null;
    }
    const conversation = this.with(other);
    const { edited, deleted } = message.body ?? {};
    if (edited || deleted) {
      // One that this browser has forgotten needs no change.
      const row = conversation.messages.find(({ seq }) => seq === Number((edited ?? deleted).seq));
      if (row) Object.assign(row, { text: deleted ? "Deleted" : textOf(edited.content), change: deleted ? "deleted" : "edited", changedBy: message.seq });
      return null;
    }
    const row = { id: message.messageId, seq: Number(message.seq), from: message.sender, time: Number(message.timeMs), text: textOf(message.body) };
    // By this the view knows that it is the message which it has shown since it was written.
    if (message.sender === this.user) row.clientId = message.clientId;
    // Almost always at the end; `seq` decides.
    let at = conversation.messages.length;
    while (at > 0 && conversation.messages[at - 1].seq > row.seq) at -= 1;
    conversation.messages.splice(at, 0, row);
    if (message.sender === this.user) {
      this.outbox = this.outbox.filter((entry) => entry.clientId !== message.clientId || entry.to !== other);
    }
    return { other, row };
  }

  /** Somebody has read a conversation up to a message: this user, on whatever device, or the other one. */
  mark(other, user, seq) {
    const conversation = this.with(other);
    if (user === other) conversation.theirRead = Math.max(conversation.theirRead ?? 0, seq);
    if (user !== this.user || seq <= (conversation.read ?? 0)) return;
    conversation.read = seq;
    const unread = conversation.messages.filter((message) => message.from === other && message.seq > seq).length;
    conversation.unread = Math.min(conversation.unread, unread);
  }

  /** Writes everything down; true when it is. */
  save() {
    const cursor = this.cursor;
    const write = (kept) => {
      const conversations = [...this.conversations].map(([other, it]) => [other, { ...it, messages: it.messages.slice(-kept) }]);
      return browserDisk.write(this.key, { cursor, conversations: Object.fromEntries(conversations), outbox: this.outbox });
    };
    // A full store holds less history, but never a cursor without the messages before it.
    if (!write(KEPT_MESSAGES) && !write(KEPT_MESSAGES_WHEN_FULL)) return false;
    this.savedCursor = cursor;
    return true;
  }

  /** The server's inbox is younger than ours: its data directory is another one. */
  startOver() {
    this.cursor = "0";
    this.conversations.clear();
    this.save();
  }
}

function textOf(body) {
  if (body?.text !== undefined) return body.text;
  const type = body?.custom?.contentType ?? "nothing";
  return `(${type}, which this page cannot show)`;
}

// ------------------------------------------------------------------------------------------------------------ Link

/** What the client says and does, for this page: the diary is written, and the view told. */
class Link {
  static async open(identity, diary) {
    const link = new Link(identity, diary);
    let { token } = identity;
    // The one that the identity came with, then new ones where there are any.
    const renew = async () => {
      const next = token ?? (await identity.renew());
      token = null;
      return next;
    };
    link.client = await Client.open({
      url: `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`,
      token: identity.renew ? renew : token,
      device: identity.device,
      cursor: diary.cursor,
      // The diary holds what was not sent yet, and is written before anything is sent.
      store: { load: () => diary.kept(), save: () => {} },
      onEntries: (entries) => link.take(entries),
      acknowledge: "manually",
      backoffFirstMs: 800,
      backoffMaxMs: 30000,
    });
    link.listen();
    link.client.setAway(document.visibilityState === "hidden");
    link.client.connect();
    return link;
  }

  constructor(identity, diary) {
    this.identity = identity;
    this.diary = diary;
    /** `connecting`, `live`, `waiting` (until `retryAt`), `stopped` (`why` says why). */
    this.state = "connecting";
    this.why = "";
    this.canResume = true;
    this.retryAt = 0;
    this.failures = 0;
    this.liveSince = null;
    this.timers = {};
    /** Who is writing to us: user → the timer after which we do not believe it any more. */
    this.typists = new Map();
    /** Who is there: user → what was told last. */
    this.presence = new Map();
    this.watched = "";
    /** To whom we said that we are writing, and when. */
    this.writingTo = null;
    /** With whom we have asked who has read what, and up to where we have said so ourselves. */
    this.asked = new Set();
    this.saidRead = new Map();
  }

  listen() {
    const { client } = this;
    client.on("state", (state) => this.changed(state));
    client.on("live", () => this.askForReceipts());
    client.on("gap", () => this.asked.clear());
    client.on("accepted", ({ clientId }) => {
      this.settle(clientId, (entry) => {
        entry.state = "accepted";
      });
    });
    client.on("rejected", ({ clientId, error }) => {
      this.settle(clientId, (entry) => {
        entry.state = "failed";
        entry.why = error.message;
      });
    });
    // Groups have no pane here yet.
    client.on("receipts", (receipts) => receipts.conversation.startsWith("g") || this.receipts(receipts));
    client.on("presence", (users) => {
      for (const there of users) this.presence.set(there.user, there);
      view.later();
    });
    client.on("typing", ({ conversation, user, stopped }) => conversation.startsWith("g") || this.typing(user, !stopped));
  }

  /** The connection came or went. */
  changed(state) {
    const lasted = this.liveSince !== null && performance.now() - this.liveSince > 10000;
    this.liveSince = null;
    switch (state.name) {
      case "open":
        this.state = "live";
        this.liveSince = performance.now();
        this.asked.clear();
        break;
      case "waiting":
        this.state = "waiting";
        this.retryAt = state.retryAtMs;
        // One that has lasted may break; that is no trouble yet.
        this.failures = lasted ? 0 : state.failures;
        break;
      case "ended":
        this.ended(state.why);
        break;
      default:
        this.state = "connecting";
    }
    view.later();
  }

  ended({ kind, code, error }) {
    if (error?.code === "cursor_ahead") {
      this.diary.startOver();
      this.client.startOver();
      this.client.connect();
      return;
    }
    this.state = "stopped";
    const reasons = {
      1000: "The server closed the connection.",
      4003: "This device is open in another tab.",
    };
    this.why = reasons[code] ?? error?.message ?? (kind === "closed" ? `The server closed the connection (${code}).` : "The connection has ended.");
    this.canResume = code !== 4000 && code !== 4001;
  }

  take(entries) {
    for (const { rev, entry } of entries) {
      const taken = this.diary.take(rev, entry);
      if (taken) {
        this.typing(taken.row.from, false);
        view.arrived(taken.other, taken.row);
      }
    }
    this.saveSoon();
  }

  saveSoon() {
    this.timers.save ??= setTimeout(() => {
      delete this.timers.save;
      this.saveNow();
    }, SAVE_AFTER_MS);
    view.later();
  }

  saveNow() {
    if (this.diary.save()) this.client.ack(this.diary.savedCursor);
  }

  receipts({ conversation, members }) {
    const other = conversation.split(":").find((member) => member !== this.diary.user);
    for (const { user, read } of members) this.diary.mark(other, user, Number(read));
    this.saveSoon();
  }

  /** Who has read what, in conversations where something is new: it may have been read on another device. */
  askForReceipts() {
    const news = [...this.diary.conversations].filter(([, { unread }]) => unread > 0);
    for (const [other] of news.slice(-ASKED_AT_ONCE)) this.askWhoRead(other);
  }

  askWhoRead(other) {
    if (this.state !== "live" || this.asked.has(other)) return;
    this.asked.add(other);
    // The answer comes by `receipts`, as what is told unasked does.
    this.client.receipts(`@${other}`).catch(() => this.asked.delete(other));
  }

  /** The user looks at a conversation, and sees all of it. */
  looking(other) {
    const { messages, read } = this.diary.with(other);
    if (messages.length === 0) return;
    this.askWhoRead(other);
    const last = messages.at(-1).seq;
    if (this.state !== "live" || last <= Math.max(read ?? 0, this.saidRead.get(other) ?? 0)) return;
    this.timers.read ??= setTimeout(() => {
      delete this.timers.read;
      // Still there, perhaps with more of it.
      if (view.isLookingAt(other) && this.state === "live") {
        const upTo = this.diary.with(other).messages.at(-1).seq;
        this.saidRead.set(other, upTo);
        this.client.read(`@${other}`, String(upTo)).catch(() => this.saidRead.delete(other));
      }
      view.later();
    }, READ_AFTER_MS);
  }

  /** Somebody writes to us, or not any more. */
  typing(user, goesOn) {
    clearTimeout(this.typists.get(user));
    this.typists.delete(user);
    if (goesOn) this.typists.set(user, setTimeout(() => this.typing(user, false), TYPING_BELIEVED_MS));
    view.later();
  }

  /** From now on we are told who of these is there. */
  watch(others) {
    const users = [...new Set(others)].slice(0, WATCHED_AT_ONCE);
    const watched = users.toSorted().join();
    if (watched === this.watched) return;
    this.watched = watched;
    this.client.watchPresence(users);
  }

  /** Whether somebody is there; null while that is not known. */
  there(user) {
    return (this.state === "live" && this.presence.get(user)) || null;
  }

  /** We write to somebody, or have stopped without a message. */
  writing(to, goesOn) {
    const now = performance.now();
    const said = this.writingTo?.to === to && now - this.writingTo.at < TYPING_AGAIN_MS;
    if (this.state !== "live" || (goesOn ? said : this.writingTo?.to !== to)) return;
    this.client.typing(`@${to}`, !goesOn);
    this.writingTo = goesOn ? { to, at: now } : null;
  }

  post(to, text) {
    // The message says that we have stopped.
    this.writingTo = null;
    const entry = { clientId: randomText(12), to, text, time: Date.now(), state: "sending" };
    this.diary.outbox.push(entry);
    this.diary.with(to);
    this.send(entry);
  }

  /** Writes a message down, then sends it. */
  send(entry) {
    this.diary.save();
    try {
      this.client.send(`@${entry.to}`, entry.text, { clientId: entry.clientId });
    } catch (error) {
      Object.assign(entry, { state: "failed", why: error.message });
    }
    this.saveSoon();
  }

  /** The server has spoken about a message of ours. */
  settle(clientId, change) {
    const entry = this.diary.outbox.find((entry) => entry.clientId === clientId);
    if (entry) change(entry);
    this.saveSoon();
  }

  /** The user, the network or the tab came back. */
  hurry() {
    if (this.state === "stopped" && this.canResume) this.client.connect();
    else this.client.hurry();
  }

  leave() {
    this.saveNow();
    this.client.close();
  }
}

// ------------------------------------------------------------------------------------------------------------ view

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const calendar = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const shortDay = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });

/** Whether somebody is there, in words. */
function wordsFor(there) {
  if (there === null) return "";
  if (there.online) return there.away ? "away" : "online";
  if (there.lastSeenMs === undefined) return "";
  const seen = new Date(Number(there.lastSeenMs));
  const isToday = seen.toDateString() === new Date().toDateString();
  return `last seen ${isToday ? clock.format(seen) : `${shortDay.format(seen)}, ${clock.format(seen)}`}`;
}

function dayOf(time) {
  const days = Math.round((new Date().setHours(0, 0, 0, 0) - new Date(time).setHours(0, 0, 0, 0)) / 86400000);
  if (days === 0) return "Today";
  if (days === 1) return "Yesterday";
  return calendar.format(time);
}

const view = {
  link: null,
  /** The user whose conversation is open. */
  other: null,
  /** Rows of the open conversation, by key, so that what has not changed is not touched. */
  rows: new Map(),
  scheduled: false,
  drafts: new Map(),

  /** Draws soon, and once. */
  later() {
    if (this.scheduled) return;
    this.scheduled = true;
    const draw = () => {
      this.scheduled = false;
      if (this.link) this.draw();
    };
    // A hidden tab gets no animation frames, but its title counts.
    if (document.hidden) setTimeout(draw, 0);
    else requestAnimationFrame(draw);
  },

  arrived(other, row) {
    const { diary } = this.link;
    const isRead = this.isLookingAt(other) || row.seq <= (diary.with(other).read ?? 0);
    if (row.from !== diary.user && !isRead) diary.with(other).unread += 1;
  },

  isLookingAt(other) {
    return other === this.other && document.visibilityState === "visible" && document.hasFocus();
  },

  draw() {
    this.drawStatus();
    this.drawList();
    this.drawPane();
    const unread = [...this.link.diary.conversations.values()].reduce((sum, { unread }) => sum + unread, 0);
    document.title = unread ? `(${unread}) Holdfast` : "Holdfast";
  },

  drawStatus() {
    const { link } = this;
    const seconds = Math.max(0, Math.ceil((link.retryAt - Date.now()) / 1000));
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

    const troubled = link.state === "stopped" || (link.failures > 0 && link.state !== "live");
    $("trouble").hidden = !troubled;
    if (troubled) {
      const away = seconds > 1 ? `The server is away. Trying again in ${seconds} s.` : "The server is away. Trying again…";
      setText($("trouble-text"), link.state === "stopped" ? link.why : away);
      $("trouble-retry").hidden = link.state === "connecting" || (link.state === "stopped" && !link.canResume);
      setText($("trouble-retry"), link.state === "stopped" ? "Connect here" : "Try now");
    }
    clearTimeout(this.countdown);
    if (link.state === "waiting") this.countdown = setTimeout(() => this.later(), 1000);
  },

  drawList() {
    const { diary } = this.link;
    const entries = [...diary.conversations].map(([other, conversation]) => {
      const unsent = diary.outbox.findLast(({ to }) => to === other);
      const last = conversation.messages.at(-1);
      const newest = unsent && unsent.time > (last?.time ?? 0) ? { ...unsent, from: diary.user } : last;
      return { other, unread: conversation.unread, newest, time: newest?.time ?? Infinity };
    });
    entries.sort((one, two) => two.time - one.time);
    this.link.watch([this.other, ...entries.map(({ other }) => other)].filter((other) => other !== null));
    const focused = document.activeElement?.dataset?.other;
    $("conversations").replaceChildren(
      ...entries.map(({ other, unread, newest }) => {
        const name = names.of(other);
        const avatar = element("span", { className: "avatar", "aria-hidden": "true" });
        paint(avatar, other, name);
        const there = this.link.there(other);
        avatar.classList.toggle("online", there?.online === true);
        avatar.classList.toggle("away", there?.away === true);
        const said = newest ? (newest.from === diary.user ? `You: ${newest.text}` : newest.text) : "No messages yet";
        const last = this.link.typists.has(other) ? "writing…" : said;
        const lines = element("span", { className: "lines" }, element("span", { className: "name", textContent: name }), element("span", { className: "last", textContent: last.slice(0, 120) }));
        const count = unread ? element("span", { className: "unread", textContent: unread > 99 ? "99+" : unread, "aria-label": `${unread} unread` }) : null;
        const button = element("button", { type: "button" }, avatar, lines, count);
        button.dataset.other = other;
        if (other === this.other) button.setAttribute("aria-current", "true");
        return element("li", {}, button);
      }),
    );
    if (focused) $("conversations").querySelector(`[data-other="${focused}"]`)?.focus();
    $("no-conversations").hidden = entries.length > 0;
  },

  drawPane() {
    const { diary } = this.link;
    const { other } = this;
    $("app").classList.toggle("open", other !== null);
    $("pane").classList.toggle("nobody", other === null);
    if (other === null) {
      this.rows.clear();
      $("messages").replaceChildren();
      setText($("other-name"), "Holdfast");
      setText($("typing"), "");
      setText($("presence"), "");
      $("no-messages").hidden = false;
      setText($("no-messages"), "Choose a conversation, or start one.");
      return;
    }
    const conversation = diary.with(other);
    if (this.isLookingAt(other)) {
      if (conversation.unread) {
        conversation.unread = 0;
        this.link.saveSoon();
      }
      this.link.looking(other);
    }
    const name = names.of(other);
    setText($("other-name"), name);
    const isWriting = this.link.typists.has(other);
    const there = this.link.there(other);
    setText($("typing"), isWriting ? "writing…" : "");
    setText($("presence"), isWriting ? "" : wordsFor(there));
    $("presence").classList.toggle("live", there?.online === true && !there.away);
    $("presence").classList.toggle("gone", there?.online === false);
    paint($("other-avatar"), other, name);

    const scroll = $("scroll");
    const atEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 80;
    const wanted = rowsOf(conversation, diary.outbox.filter(({ to }) => to === other), diary.user);
    const had = this.rows;
    this.rows = new Map();
    let before = null;
    for (const row of wanted) {
      const node = had.get(row.key) ?? element("li");
      const isNew = !had.delete(row.key);
      if (node.dataset.look !== row.look) {
        node.dataset.look = row.look;
        row.fill(node);
        if (isNew && this.shown === other) node.classList.add("fresh");
      }
      const follows = before ? before.nextSibling : $("messages").firstChild;
      if (follows !== node) $("messages").insertBefore(node, follows);
      before = node;
      this.rows.set(row.key, node);
    }
    for (const node of had.values()) node.remove();
    $("no-messages").hidden = wanted.length > 0;
    setText($("no-messages"), `Say hello to ${name}.`);
    if (atEnd || this.shown !== other) scroll.scrollTop = scroll.scrollHeight;
    this.shown = other;
  },

  /** Opens a conversation, or with null the list. The address remembers it, so that Back works. */
  open(other) {
    const hash = other === null ? "" : `#${other}`;
    if (location.hash !== hash) history.pushState(null, "", hash || location.pathname);
    this.follow();
  },

  follow() {
    const other = location.hash.slice(1);
    const next = /^[1-9][0-9]*$/.test(other) && other !== this.link?.diary.user ? other : null;
    if (next !== this.other) {
      if (this.other !== null) {
        this.drafts.set(this.other, $("text").value);
        this.link?.writing(this.other, false);
      }
      $("text").value = this.drafts.get(next) ?? "";
      this.other = next;
      this.rows.clear();
      // History is not news: a screen reader must not read all of it aloud.
      $("messages").setAttribute("aria-live", "off");
      $("messages").replaceChildren();
      setTimeout(() => $("messages").setAttribute("aria-live", "polite"), 500);
      fitComposer();
      $("composer-hint").hidden = true;
    }
    this.draw();
    if (next !== null && matchMedia("(min-width: 46rem)").matches) $("text").focus();
  },
};

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Initials on a colour that belongs to the user. */
function paint(avatar, user, name) {
  const words = name.split(/[\s._-]+/).filter(Boolean);
  // The last digits tell numbered users apart.
  const number = name.match(/^User \d*?(\d{1,2})$/);
  const initials = number ? number[1] : words.length > 1 ? [...words[0]][0] + [...words.at(-1)][0] : [...name].slice(0, 2).join("");
  setText(avatar, initials.toUpperCase());
  avatar.style.setProperty("--hue", String((BigInt(user) * 47n) % 360n));
}

/** What the open conversation shows, from top to bottom. */
function rowsOf({ messages, theirRead }, outbox, me) {
  const rows = [];
  let day = null;
  let from = null;
  const all = [...messages, ...outbox.map((entry) => ({ ...entry, from: me, unsent: entry }))];
  for (const message of all) {
    const messageDay = dayOf(message.time);
    if (messageDay !== day) {
      day = messageDay;
      from = null;
      rows.push({ key: `day ${day}`, look: day, fill: (node) => fillDay(node, messageDay) });
    }
    const first = from !== message.from;
    from = message.from;
    const state = message.unsent?.state ?? "there";
    const key = message.clientId ? `own ${message.clientId}` : message.id;
    const mine = message.from === me;
    const isRead = mine && message.seq <= theirRead;
    rows.push({ key, look: `${first} ${state} ${message.changedBy ?? ""} ${isRead}`, fill: (node) => fillMessage(node, message, { first, mine, isRead }) });
  }
  return rows;
}

function fillDay(node, day) {
  node.className = "day";
  setText(node, day);
}

function fillMessage(node, message, { first, mine, isRead }) {
  const { unsent } = message;
  const waiting = unsent?.state === "sending";
  const failed = unsent?.state === "failed";
  node.className = ["message", first && "first", mine && "mine", isRead && "read", waiting && "waiting", failed && "failed", message.change].filter(Boolean).join(" ");
  node.dataset.state = unsent?.state ?? "delivered";
  const foot = element("div", { className: "foot" });
  if (failed) {
    const again = element("button", { type: "button", className: "link", textContent: "Try again", onclick: () => retry(unsent) });
    const discard = element("button", { type: "button", className: "link", textContent: "Delete", onclick: () => drop(unsent) });
    foot.append(element("span", { textContent: `Not sent: ${unsent.why}` }), again, discard);
  } else {
    foot.append(element("time", { dateTime: new Date(message.time).toISOString(), textContent: clock.format(message.time) }));
    if (message.change === "edited") foot.prepend(element("span", { textContent: "edited" }));
    if (waiting) foot.append(...icon("M12 7v5l3 2M12 3a9 9 0 1 0 0 18a9 9 0 0 0 0-18", "sending"));
    else if (isRead) foot.append(...icon("M1.5 12.5l5 5L16.5 7M11.5 16l1.5 1.5L22.5 7", "read"));
    else if (mine) foot.append(...icon("M4.5 12.5l5 5L19.5 7", "sent"));
  }
  node.replaceChildren(element("div", { className: "body", textContent: message.text }), foot);
}

function retry(entry) {
  // Another name: the server has refused this one for good.
  Object.assign(entry, { clientId: randomText(12), state: "sending", why: undefined });
  view.link.send(entry);
}

function drop(entry) {
  const { diary } = view.link;
  diary.outbox = diary.outbox.filter((other) => other !== entry);
  diary.save();
  view.later();
}

function fitComposer() {
  const text = $("text");
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight + 2}px`;
}

// ---------------------------------------------------------------------------------------------------- coming and going

function say(id, text) {
  $(id).textContent = text;
  $(id).hidden = !text;
}

async function enter(makeIdentity) {
  say("login-error", "");
  const button = $("login-form").querySelector("[type=submit]");
  button.disabled = true;
  try {
    const identity = await makeIdentity();
    tabDisk.write("holdfast.identity", identity.remember);
    $("login").hidden = true;
    $("app").hidden = false;
    view.link = await Link.open(identity, new Diary(identity.user, identity.device));
    view.follow();
    if (view.other === null) $("with").focus();
  } catch (error) {
    $("login").hidden = false;
    say("login-error", error.message);
    (useToken() ? $("token") : $("name")).focus();
  } finally {
    button.disabled = false;
  }
}

function leave() {
  view.link?.leave();
  tabDisk.forget("holdfast.identity");
  // A fresh page also gives the device back to other tabs.
  history.replaceState(null, "", location.pathname);
  location.reload();
}

const useToken = () => !$("token-part").hidden;

function offerToken(token, canSwitch = true) {
  $("token-part").hidden = !token;
  $("name-part").hidden = token;
  $("login-switch").hidden = !canSwitch;
  $("login-switch").textContent = token ? "Use a name instead" : "I have a token";
  say("login-error", "");
}

async function startConversation(name) {
  const guest = guestsAllowed
    ? await api(`/v1/guest/${encodeURIComponent(name)}`)
    : { user: name, name: `User ${name}` };
  if (!/^[1-9][0-9]*$/.test(guest.user)) throw new Problem("user", "Guests are off here: a user is a number.");
  if (guest.user === view.link.diary.user) throw new Problem("self", "That is you. Write to somebody else.");
  if (BigInt(guest.user) >= FIRST_NAMED_USER && guestsAllowed) names.learn(guest.user, names.known.get(guest.user) ?? guest.name);
  view.link.diary.with(guest.user);
  view.link.saveSoon();
  view.open(guest.user);
}

let guestsAllowed = true;

function listen() {
  $("login-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const token = $("token").value.trim();
    const name = $("name").value.trim();
    if (useToken()) enter(() => tokenIdentity(token));
    else if (name) enter(() => guestIdentity(name));
    else $("name").focus();
  });
  $("login-switch").addEventListener("click", () => {
    offerToken(!useToken());
    (useToken() ? $("token") : $("name")).focus();
  });
  $("start-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    say("start-error", "");
    const name = $("with").value.trim();
    if (!name) return;
    try {
      await startConversation(name);
      $("with").value = "";
    } catch (error) {
      say("start-error", error.message);
    }
  });
  $("conversations").addEventListener("click", (event) => {
    const other = event.target.closest("button")?.dataset.other;
    if (other) view.open(other);
  });
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("text").value.trim();
    if (!text || view.other === null) return;
    const bytes = new TextEncoder().encode(text).length;
    const most = view.link.client.messageBytesMax;
    if (bytes > most) {
      say("composer-hint", `${bytes.toLocaleString()} bytes; a message has at most ${most.toLocaleString()}.`);
      return;
    }
    say("composer-hint", "");
    view.link.post(view.other, text);
    $("text").value = "";
    view.drafts.delete(view.other);
    fitComposer();
    $("scroll").scrollTop = $("scroll").scrollHeight;
    $("text").focus();
  });
  $("text").addEventListener("input", () => {
    fitComposer();
    if (view.other !== null) view.link.writing(view.other, $("text").value.trim() !== "");
  });
  $("text").addEventListener("keydown", (event) => {
    // On a touch screen Enter is for new lines; there is a button beside it.
    const sends = event.key === "Enter" && !event.shiftKey && !event.isComposing && !matchMedia("(pointer: coarse)").matches;
    if (!sends) return;
    event.preventDefault();
    $("composer").requestSubmit();
  });
  $("back").addEventListener("click", () => view.open(null));
  $("leave").addEventListener("click", leave);
  $("trouble-retry").addEventListener("click", () => view.link?.hurry());
  window.addEventListener("online", () => view.link?.hurry());
  window.addEventListener("focus", () => view.later());
  window.addEventListener("popstate", () => view.link && view.follow());
  window.addEventListener("pagehide", () => view.link?.saveNow());
  // Names that other tabs have learnt.
  window.addEventListener("storage", ({ key, newValue }) => {
    if (key !== "holdfast.names" || !newValue) return;
    names.known = new Map(Object.entries(browserDisk.read("holdfast.names") ?? {}));
    view.later();
  });
  document.addEventListener("visibilitychange", () => {
    view.link?.client.setAway(document.visibilityState === "hidden");
    if (document.visibilityState === "hidden") view.link?.saveNow();
    else if (view.link?.state === "waiting" || view.link?.state === "live") view.link.hurry();
    view.later();
  });
}

async function main() {
  listen();
  const remembered = tabDisk.read("holdfast.identity");
  // Asks for nobody in particular: whether the question is answered is the answer.
  guestsAllowed = await api("/v1/guest/1").then(() => true, ({ code }) => code !== "not_found");
  offerToken(!guestsAllowed, guestsAllowed);
  if (remembered?.name) return enter(() => guestIdentity(remembered.name));
  if (remembered?.token) return enter(() => tokenIdentity(remembered.token));
  $("login").hidden = false;
  (useToken() ? $("token") : $("name")).focus();
}

main();
