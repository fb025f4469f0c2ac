// Between the diary and the library's client, which speaks to the server: what the page asks for and says, and what
// comes of it. The diary is written before anything is sent or acknowledged.

import { Client } from "/holdfast-client.js";
import { isGroup, nameOfKey } from "/diary.js";
import { randomText } from "/disk.js";
import { People } from "/people.js";

/** How often a user who goes on writing says so, and how long others believe it. */
const TYPING_AGAIN_MS = 3000;
const TYPING_BELIEVED_MS = 6000;
/** How long what happens is collected before it is written down, and before others hear that it was read. */
const SAVE_AFTER_MS = 750;
const READ_AFTER_MS = 1000;
/** A connection that has lasted so long may break; that is no trouble yet. */
const LASTED_MS = 10_000;
/** Others who are watched; the server allows 500. */
const WATCHED_AT_ONCE = 200;
const HISTORY_AT_ONCE = 50;
const LISTED_AT_ONCE = 200;

/** How each kind of request is made of its frame. */
const REQUESTS = {
  send: (client, { conversation, body, ...options }) => client.send(conversation, body, options),
  edit: (client, { conversation, seq, content, clientId }) => client.edit(conversation, seq, content, { clientId }),
  delete: (client, { conversation, seq, clientId }) => client.delete(conversation, seq, { clientId }),
  createGroup: (client, { title, members, ...options }) => client.createGroup(title, members, options),
  addMembers: (client, { conversation, users, clientId }) => client.addMembers(conversation, users, { clientId }),
  removeMember: (client, { conversation, user, clientId }) => client.removeMember(conversation, user, { clientId }),
  leave: (client, { conversation, clientId }) => client.leave(conversation, { clientId }),
  rename: (client, { conversation, title, clientId }) => client.rename(conversation, title, { clientId }),
  setRole: (client, { conversation, user, role, clientId }) => client.setRole(conversation, user, role, { clientId }),
};
/** Those that are shown until the inbox has them. */
const SHOWN = new Set(["send", "edit", "delete"]);

const kindOf = ({ frame }) => Object.keys(frame)[0];

export class Link {
  /** `onChange`: there is something to draw. `isLookingAt(key)`: the user sees this conversation. `onComplaint(key,
   *  text)`: a change of a message was refused. */
  static async open(identity, diary, view) {
    const link = new Link(identity, diary, view);
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
      // The diary holds what was not sent yet, and is written before anything is sent.
      store: { load: () => diary.kept(), save: () => {} },
      onEntries: (entries) => link.#take(entries),
      onSnapshot: (snapshot) => {
        diary.takeSnapshot(snapshot);
        link.#saveSoon();
      },
      acknowledge: "manually",
      backoffFirstMs: 800,
      backoffMaxMs: 30000,
    });
    link.people = new People(link.client, () => view.onChange());
    link.#listen();
    link.client.setAway(document.visibilityState === "hidden");
    link.client.connect();
    return link;
  }

  constructor(identity, diary, view) {
    this.identity = identity;
    this.diary = diary;
    this.view = view;
    /** `connecting`, `live`, `waiting` (until `retryAt`), `stopped` (`why` says why). */
    this.state = "connecting";
    this.why = "";
    this.canResume = true;
    this.retryAt = 0;
    this.failures = 0;
    this.liveSince = null;
    this.timers = {};
    /** Who is writing: key → user → the timer after which we do not believe it any more. */
    this.typists = new Map();
    /** Who is there: user → what was told last. */
    this.presence = new Map();
    this.watched = "";
    /** Where we said that we are writing, and when. */
    this.writingTo = null;
    /** The server's list was compared with the diary since this page was loaded. */
    this.isListed = false;
    /** What was asked for on this connection, by key: receipts, members. */
    this.asked = new Set();
    /** Older messages are on their way, or could not be had on this connection. */
    this.loading = new Map();
    this.stuck = new Set();
    /** Up to where the user has looked, and up to where we have said so: the server's word comes a moment later. */
    this.looked = new Map();
    this.saidRead = new Map();
  }

  #listen() {
    const { client } = this;
    client.on("state", (state) => this.#changed(state));
    client.on("live", () => this.#list());
    client.on("people", (people) => this.people.take(people));
    client.on("gap", () => {
      this.asked.clear();
      this.people.ask();
    });
    client.on("accepted", ({ clientId, seq }) => {
      this.#settle(clientId, (entry) => {
        Object.assign(entry, { state: "accepted", seq: Number(seq) });
        const isSeen = entry.seq <= (this.diary.conversations.get(entry.key)?.seq ?? 0);
        return SHOWN.has(kindOf(entry)) && !isSeen;
      });
    });
    client.on("rejected", ({ clientId, error }) => {
      this.#settle(clientId, (entry) => {
        Object.assign(entry, { state: "failed", why: error.message });
        const kind = kindOf(entry);
        if (kind === "edit" || kind === "delete") this.view.onComplaint(entry.key, error.message);
        return kind === "send";
      });
    });
    client.on("receipts", (receipts) => {
      this.diary.takeMarks(receipts);
      this.#saveSoon();
    });
    client.on("presence", (users) => {
      for (const there of users) this.presence.set(there.user, there);
      this.view.onChange();
    });
    client.on("typing", ({ conversation, user, stopped }) =>
      this.#typing(this.diary.keyOf(conversation), user, !stopped),
    );
  }

  // The connection.

  #changed(state) {
    const hasLasted = this.liveSince !== null && performance.now() - this.liveSince > LASTED_MS;
    this.liveSince = null;
    switch (state.name) {
      case "open":
        this.state = "live";
        this.liveSince = performance.now();
        this.asked.clear();
        this.stuck.clear();
        this.people.ask();
        break;
      case "waiting":
        this.state = "waiting";
        this.retryAt = state.retryAtMs;
        this.failures = hasLasted ? 0 : state.failures;
        break;
      case "ended":
        this.#ended(state.why);
        break;
      default:
        this.state = "connecting";
    }
    this.view.onChange();
  }

  #ended({ kind, code, error }) {
    if (error?.code === "cursor_ahead") {
      this.diary.startOver();
      this.isListed = false;
      this.looked.clear();
      this.saidRead.clear();
      this.client.startOver();
      this.client.connect();
      return;
    }
    this.state = "stopped";
    const reasons = {
      1000: "The server closed the connection.",
      4003: "This device is open in another tab.",
      4005: "This device was shut out from another one.",
    };
    this.why =
      reasons[code] ??
      error?.message ??
      (kind === "closed" ? `The server closed the connection (${code}).` : "The connection has ended.");
    this.canResume = ![4000, 4001, 4005].includes(code);
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

  // What comes.

  #take(entries) {
    for (const { rev, entry } of entries) {
      this.diary.take(rev, entry);
      const { message } = entry;
      if (message) this.#typing(this.diary.keyOf(message.conversation), message.sender, false);
    }
    this.#saveSoon();
  }

  #saveSoon() {
    this.timers.save ??= setTimeout(() => {
      delete this.timers.save;
      this.saveNow();
    }, SAVE_AFTER_MS);
    this.view.onChange();
  }

  saveNow() {
    if (this.diary.save() && this.diary.savedCursor !== null) this.client.ack(this.diary.savedCursor);
  }

  /** Compares with the server's list, once: from there on entries keep it up. */
  async #list() {
    this.view.onChange();
    if (this.isListed) return;
    this.isListed = true;
    const listed = new Set();
    try {
      for (let after = "", end = false; !end;) {
        const part = await this.client.conversations({ after, limit: LISTED_AT_ONCE });
        this.diary.takeList(part, listed);
        this.#saveSoon();
        after = part.conversations.at(-1)?.conversation ?? after;
        end = part.end;
      }
    } catch {
      // The next connection tries again.
      this.isListed = false;
    }
  }

  /** How many messages of others the user has not seen. */
  unread(key) {
    const { ordinal, seen } = this.diary.conversations.get(key);
    // Of a device that does not begin at the beginning only the server knows.
    if (!this.diary.isListed) return 0;
    return Math.max(0, ordinal - Math.max(seen, this.looked.get(key)?.ordinal ?? 0));
  }

  /** The user looks at a conversation, and sees all of it. */
  looking(key) {
    const { seq, ordinal, read, gone } = this.diary.with(key);
    if (gone) return;
    this.askWhoRead(key);
    this.looked.set(key, { seq, ordinal });
    if (seq > Math.max(read, this.saidRead.get(key) ?? 0))
      this.timers.read ??= setTimeout(() => this.#sayRead(key), READ_AFTER_MS);
  }

  #sayRead(key) {
    delete this.timers.read;
    // The user may have turned away meanwhile.
    const { seq } = this.looked.get(key) ?? { seq: 0 };
    if (seq > this.diary.with(key).read && this.state === "live") {
      this.saidRead.set(key, seq);
      this.client.read(nameOfKey(key), String(seq)).catch(() => this.saidRead.delete(key));
    }
    this.view.onChange();
  }

  /** How far everybody has read: asked once per connection, then told, but in large groups. */
  askWhoRead(key, isAgain = false) {
    const { seq, gone } = this.diary.with(key);
    if (seq === 0 || gone) return;
    // The answer comes by `receipts`, as what is told unasked does.
    this.#askOnce(`receipts ${key}`, () => this.client.receipts(nameOfKey(key)), isAgain);
  }

  /** Who is in a group, unless that is known: from there on entries keep it up. */
  askWhoIsIn(key) {
    if (!isGroup(key) || this.diary.with(key).group || this.diary.with(key).gone) return;
    this.#askOnce(`group ${key}`, async () => {
      this.diary.takeGroup(await this.client.group(key));
      // If something has happened since, or the user comes back one day, it is asked again.
      this.asked.delete(`group ${key}`);
      this.#saveSoon();
    });
  }

  #askOnce(what, ask, isAgain = false) {
    if (this.state !== "live" || (this.asked.has(what) && !isAgain)) return;
    this.asked.add(what);
    ask().catch(() => {});
  }

  /** Gets what is before the messages that are here; true when something may have come. */
  older(key) {
    const { from, isComplete, gone } = this.diary.with(key);
    if (this.state !== "live" || isComplete || gone || this.stuck.has(key)) return Promise.resolve(false);
    const load = async () => {
      const range = from > 0 ? { before: String(from), limit: HISTORY_AT_ONCE } : { limit: HISTORY_AT_ONCE };
      try {
        this.diary.takeHistory(key, await this.client.history(nameOfKey(key), range), from);
        const conversation = this.diary.with(key);
        const isFurther = conversation.from !== from || conversation.isComplete;
        if (!isFurther) this.stuck.add(key);
        return isFurther;
      } catch {
        this.stuck.add(key);
        return false;
      } finally {
        this.loading.delete(key);
        this.view.onChange();
      }
    };
    if (!this.loading.has(key)) this.loading.set(key, load());
    return this.loading.get(key);
  }

  // Who is there, and who is writing.

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

  /** Somebody writes to us, or not any more. */
  #typing(key, user, goesOn) {
    if (user === this.diary.user) return;
    const writers = this.typists.get(key) ?? new Map();
    this.typists.set(key, writers);
    clearTimeout(writers.get(user));
    writers.delete(user);
    if (goesOn)
      writers.set(
        user,
        setTimeout(() => this.#typing(key, user, false), TYPING_BELIEVED_MS),
      );
    this.view.onChange();
  }

  writers(key) {
    return [...(this.typists.get(key)?.keys() ?? [])];
  }

  /** We write in a conversation, or have stopped without a message. */
  writing(key, goesOn) {
    const now = performance.now();
    const isSaid = this.writingTo?.key === key && now - this.writingTo.at < TYPING_AGAIN_MS;
    if (this.state !== "live" || (goesOn ? isSaid : this.writingTo?.key !== key)) return;
    this.client.typing(nameOfKey(key), !goesOn);
    this.writingTo = goesOn ? { key, at: now } : null;
  }

  // What the user does.

  /** Begins a conversation with a user. */
  begin(key) {
    this.diary.begin(key);
    this.#saveSoon();
  }

  send(key, text, replyTo) {
    // The message says that we have stopped.
    this.writingTo = null;
    if (!isGroup(key)) this.diary.begin(key);
    const reply = replyTo === undefined ? {} : { replyTo: String(replyTo) };
    this.#post(key, "send", { conversation: nameOfKey(key), body: { text }, ...reply });
  }

  edit(key, seq, text) {
    this.writing(key, false);
    this.#post(key, "edit", { conversation: nameOfKey(key), seq: String(seq), content: { text } });
  }

  delete(key, seq) {
    this.#post(key, "delete", { conversation: nameOfKey(key), seq: String(seq) });
  }

  /** Gives the group's key. */
  async createGroup(title, members) {
    return (await this.#post(null, "createGroup", { title, members, openHistory: false })).conversation;
  }

  /** `addMembers`, `removeMember`, `leave`, `rename` or `setRole`; throws what the server refuses. */
  changeGroup(kind, key, content = {}) {
    return this.#post(key, kind, { conversation: key, ...content });
  }

  /** Sends what was refused again, as something new: the server has refused its name for good. */
  retry(entry) {
    this.drop(entry);
    const [kind] = Object.keys(entry.frame);
    this.#post(entry.key, kind, entry.frame[kind]);
  }

  drop(entry) {
    this.diary.outbox = this.diary.outbox.filter((other) => other !== entry);
    this.#saveSoon();
  }

  /** Writes a request down, then makes it. */
  #post(key, kind, content) {
    const clientId = randomText(12);
    const frame = { [kind]: { ...content, clientId } };
    const entry = { clientId, key, frame, time: Date.now(), state: "sending" };
    this.diary.outbox.push(entry);
    this.diary.save();
    this.#saveSoon();
    try {
      return REQUESTS[kind](this.client, frame[kind]);
    } catch (error) {
      if (kind === "send") Object.assign(entry, { state: "failed", why: error.message });
      else this.drop(entry);
      const failed = Promise.reject(error);
      failed.catch(() => {});
      return failed;
    }
  }

  /** The server has spoken about a request; `change` says whether it is still to be shown. */
  #settle(clientId, change) {
    const entry = this.diary.outbox.find((entry) => entry.clientId === clientId);
    if (entry && !change(entry)) this.drop(entry);
    else this.#saveSoon();
  }
}
