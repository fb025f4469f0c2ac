/** Against the real server, through kill -9 and restarts of both sides: nothing lost, doubled or reordered. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Client, type ClientEvents, type ClientOptions } from "../src/client.ts";
import { platform, type Environment } from "../src/environment.ts";
import type { RequestError } from "../src/errors.ts";
import type { Kept } from "../src/machine.ts";
import type { Body, InboxEntry, Message } from "../src/messages.ts";
import { BINARY, Holdfast } from "./holdfast.ts";

const options = { skip: BINARY === undefined && "HOLDFAST does not name the server's binary", timeout: 120_000 };

/** A device: its disk survives what happens to its client. */
class Device {
  readonly #holdfast: Holdfast;
  readonly user: string;
  /** What is on the disk: entries and cursor in one, as an application must keep them, and what the client keeps. */
  readonly log: InboxEntry[] = [];
  #kept: Kept | null = null;
  client: Client;
  #life = 0;
  #watchers: (() => void)[] = [];
  /** Codes of all errors that the server has sent. */
  readonly errors: string[] = [];

  private constructor(holdfast: Holdfast, user: string, client: Client) {
    this.#holdfast = holdfast;
    this.user = user;
    this.client = client;
  }

  static async open(holdfast: Holdfast, user: string): Promise<Device> {
    const none: ClientOptions = { url: holdfast.url, token: "", onEntries: () => {} };
    const device = new Device(holdfast, user, await Client.open(none));
    await device.start();
    return device;
  }

  /** A program that is killed without a word, and started again: what it did not write down is forgotten. */
  async restart(): Promise<void> {
    this.#life += 1;
    await this.client.close();
    await this.start();
  }

  async start(): Promise<void> {
    const life = this.#life;
    const isAlive = () => life === this.#life;
    const client = await Client.open({
      url: this.#holdfast.url,
      token: () => this.#holdfast.token(this.user, "device"),
      cursor: this.log.at(-1)?.rev ?? "0",
      acknowledge: "manually",
      store: {
        load: () => this.#kept,
        save: (kept) => {
          if (isAlive()) this.#kept = kept;
        },
      },
      onEntries: (entries) => {
        if (!isAlive()) return;
        this.log.push(...entries);
        client.ack(entries.at(-1)?.rev ?? "0");
        for (const watcher of this.#watchers) watcher();
      },
      backoffFirstMs: 50,
      backoffMaxMs: 200,
      environment: this.#wiretapped(),
    });
    this.client = client;
    client.connect();
  }

  #wiretapped(): Environment {
    return {
      ...platform,
      connect: (url, subprotocol, events) =>
        platform.connect(url, subprotocol, {
          ...events,
          onText: (text) => {
            const { error } = JSON.parse(text) as { error?: { code: string } };
            if (error) this.errors.push(error.code);
            events.onText(text);
          },
        }),
    };
  }

  messages(conversation: string): Message[] {
    return this.log.flatMap(({ entry: { message } }) => (message?.conversation === conversation ? [message] : []));
  }

  texts(conversation: string): string[] {
    return this.messages(conversation).map(({ body }) => textOf(body));
  }

  /** Resolves when the log is as wanted. */
  async until(isThere: () => boolean): Promise<void> {
    await new Promise<void>((resolve) => {
      const watcher = () => {
        if (!isThere()) return;
        this.#watchers = this.#watchers.filter((other) => other !== watcher);
        resolve();
      };
      this.#watchers.push(watcher);
      watcher();
    });
  }

  async next<Name extends keyof ClientEvents>(name: Name, fits: (event: ClientEvents[Name]) => boolean): Promise<ClientEvents[Name]> {
    return new Promise((resolve) => {
      const stop = this.client.on(name, (event) => {
        if (!fits(event)) return;
        stop();
        resolve(event);
      });
    });
  }

  async open(): Promise<void> {
    if (this.client.state.name !== "open") await this.next("welcome", () => true);
  }
}

function textOf(body: Body): string {
  return "text" in body ? body.text : (Object.keys(body)[0] ?? "");
}

test("nothing is lost, doubled or reordered when either side is killed", options, async () => {
  const holdfast = await Holdfast.start();
  const ana = await Device.open(holdfast, "1");
  const ben = await Device.open(holdfast, "2");
  try {
    const { conversation: group = "" } = await ana.client.createGroup("Roof", ["2"]);
    const accepted: Promise<unknown>[] = [];
    const wanted = new Map<string, string[]>();
    const say = (device: Device, conversation: string, count: number) => {
      for (let index = 0; index < count; index += 1) {
        const key = `${conversation} ${device.user}`;
        const texts = wanted.get(key) ?? [];
        const text = `${device.user} says ${texts.length} in ${conversation}`;
        wanted.set(key, [...texts, text]);
        // The same conversation by both of its names.
        const name = conversation === "1:2" && device === ana ? "@2" : conversation;
        const sent = device.client.send(name, text);
        accepted.push(sent.catch((error: RequestError) => assert.equal(error.code, "closed")));
      }
    };
    const sayAll = (count: number) => {
      for (const device of [ana, ben]) for (const conversation of ["1:2", group]) say(device, conversation, count);
    };

    // The server is killed in the middle of it, twice; what is said while it is away waits.
    sayAll(15);
    await ben.until(() => ben.log.length > 20);
    await holdfast.end("SIGKILL");
    sayAll(5);
    await holdfast.start();
    await ana.until(() => ana.log.length > 60);
    await holdfast.end("SIGKILL");
    await holdfast.start();
    // So is a client, with requests on their way.
    sayAll(5);
    await ben.restart();
    await ana.until(() => ana.log.length > 80);
    await ana.restart();
    // And a polite stop.
    sayAll(5);
    assert.equal(await holdfast.end("SIGTERM"), 0);
    await holdfast.start();

    const total = [...wanted.values()].reduce((sum, texts) => sum + texts.length, 0) + 1;
    for (const device of [ana, ben]) {
      await device.until(() => device.log.length >= total);
      assert.deepEqual(device.log.map(({ rev }) => rev), Array.from({ length: total }, (_, index) => String(index + 1)));
      for (const conversation of ["1:2", group]) {
        const messages = device.messages(conversation);
        assert.deepEqual(messages.map(({ seq }) => seq), messages.map((_, index) => String(index + 1)));
        for (const { user } of [ana, ben]) {
          const texts = messages.filter(({ sender, body }) => sender === user && "text" in body).map(({ body }) => textOf(body));
          assert.deepEqual(texts, wanted.get(`${conversation} ${user}`), `${device.user} reads ${conversation}`);
        }
      }
      await device.until(() => device.client.outbox.length === 0);
    }
    for (const conversation of ["1:2", group]) assert.deepEqual(ana.texts(conversation), ben.texts(conversation));
    await Promise.all(accepted);

    // A device that has never been there gets the same.
    const { messages } = await ben.client.history(group, { after: "0", limit: 200 });
    assert.deepEqual(messages.map(({ body }) => textOf(body)), ben.texts(group));
  } finally {
    await Promise.all([ana.client.close(), ben.client.close()]);
    await holdfast.remove();
  }
});

test("every request does what it says", options, async () => {
  const holdfast = await Holdfast.start();
  const ana = await Device.open(holdfast, "1");
  const ben = await Device.open(holdfast, "9007199254740993");
  try {
    const direct = `@${ben.user}`;
    const first = await ana.client.send(direct, "naïve “café” 👋");
    assert.equal(first.seq, "1");
    await ben.until(() => ben.log.length === 1);
    const [received] = ben.messages(`1:${ben.user}`);
    assert.deepEqual([received?.body, received?.messageId], [{ text: "naïve “café” 👋" }, first.messageId]);
    await ben.client.send("@1", { custom: { contentType: "a/b", data: "AAEC/w==" } }, { replyTo: "1" });
    await ana.client.edit(direct, "1", "changed");
    await ana.client.delete(direct, 1n);
    const { messages, end } = await ana.client.history(direct, { limit: 2 });
    assert.deepEqual([messages.map(({ seq }) => seq), end], [["3", "4"], false]);

    // Who has read, and who is writing.
    const told = ana.next("receipts", ({ members }) => members.length === 1 && members[0]?.user === ben.user);
    const own = await ben.client.read("@1", "2");
    assert.deepEqual(own.members, [{ user: ben.user, read: "2", delivered: "2" }]);
    assert.deepEqual((await told).members, own.members);
    const marks = (await ana.client.receipts(direct)).members.map(({ user, read }) => [user, read]);
    assert.deepEqual(marks, [["1", "0"], [ben.user, "2"]]);
    const writing = ben.next("typing", ({ user }) => user === "1");
    ana.client.typing(direct);
    assert.equal((await writing).stopped, false);

    // Who is there.
    const there = ana.next("presence", (users) => users.some(({ user, online, away }) => user === ben.user && online && !away));
    ana.client.watchPresence([ben.user, 77n]);
    await there;
    const gone = ana.next("presence", (users) => users.some(({ user, away }) => user === ben.user && away));
    ben.client.setAway(true);
    await gone;

    // Groups.
    const { conversation: group = "" } = await ana.client.createGroup("Roof", [BigInt(ben.user)]);
    await ana.client.addMembers(group, ["7"]);
    await ana.client.setRole(group, ben.user, "ADMIN");
    assert.deepEqual(await ben.client.group(group), {
      conversation: group,
      title: "Roof",
      openHistory: false,
      members: [
        { user: "1", role: "OWNER", joined: "1" },
        { user: "7", role: "MEMBER", joined: "2" },
        { user: ben.user, role: "ADMIN", joined: "1" },
      ],
      seq: "3",
      retentionDays: 0,
    });
    const { conversations } = await ben.client.conversations();
    assert.deepEqual(conversations.map(({ conversation }) => conversation).sort(), [`1:${ben.user}`, group].sort());
    await ben.client.rename(group, "Cellar");
    await ben.client.setRetention(group, 90);
    assert.equal((await ana.client.group(group)).retentionDays, 90);
    await ben.client.removeMember(group, "7");
    await ana.client.leave(group);
    await ben.until(() => ben.texts(group).includes("memberLeft"));
    assert.deepEqual(ben.texts(group), ["groupCreated", "membersAdded", "roleSet", "renamed", "retentionSet", "memberRemoved", "memberLeft"]);

    // Refusals reach the request that they mean, also those that do not say which that is.
    const refused = (promise: Promise<unknown>, code: string) => assert.rejects(promise, { name: "RequestError", code });
    const unreadable = ana.client.send(direct, { custom: { contentType: "a/b", data: "?" } });
    const after = ana.client.send(direct, "after it");
    await Promise.all([
      refused(ana.client.edit(direct, "999", "x"), "unknown_message"),
      refused(ana.client.rename(group, "x"), "unknown_conversation"),
      refused(ana.client.receipts("g999"), "unknown_conversation"),
      refused(ana.client.read(direct, "999"), "unknown_message"),
      refused(unreadable, "bad_frame"),
    ]);
    assert.equal((await after).seq, "5");
    // One name, one request: what it asks for the second time does not count.
    const once = await ana.client.send(direct, "once", { clientId: "mine" });
    assert.deepEqual(await ana.client.send(direct, "twice", { clientId: "mine" }), once);
  } finally {
    await Promise.all([ana.client.close(), ben.client.close()]);
    await holdfast.remove();
  }
});

test("who is far behind gets a snapshot, if it takes one", options, async () => {
  const holdfast = await Holdfast.start({ HOLDFAST_LIMITS__SNAPSHOT_AFTER: "5" });
  const ana = await Device.open(holdfast, "1");
  try {
    for (let index = 0; index < 10; index += 1) await ana.client.send("@2", `text ${index}`);
    const given: string[] = [];
    const open = (device: string, takesSnapshots: boolean) => {
      return Client.open({
        url: holdfast.url,
        token: holdfast.token("1", device),
        cursor: "0",
        onEntries: (entries) => void given.push(...entries.map(({ rev }) => rev)),
        ...(takesSnapshots ? { onSnapshot: ({ rev, conversations }) => void given.push(`${conversations.length} up to ${rev}`) } : {}),
      });
    };
    for (const takesSnapshots of [true, false]) {
      const client = await open(`new-${takesSnapshots}`, takesSnapshots);
      const live = new Promise<string>((resolve) => client.on("live", ({ rev }) => resolve(rev)));
      client.connect();
      assert.equal(await live, "10");
      await client.close();
    }
    assert.deepEqual(given, ["1 up to 10", ...Array.from({ length: 10 }, (_, index) => String(index + 1))]);
  } finally {
    await ana.client.close();
    await holdfast.remove();
  }
});

test("more than the server takes arrives all the same, in order", options, async () => {
  const holdfast = await Holdfast.start();
  const ana = await Device.open(holdfast, "1");
  try {
    await ana.open();
    // What the client does not count uses up what the server allows: its own pace is too fast by that.
    for (let times = 0; times < 60; times += 1) ana.client.typing("@2");
    const texts = Array.from({ length: 70 }, (_, index) => `text ${index}`);
    await Promise.all(texts.map((text) => ana.client.send("@2", text)));
    await ana.until(() => ana.log.length === texts.length);
    assert.deepEqual(ana.texts("1:2"), texts);
    assert(ana.errors.includes("rate_limited"), "the server has refused some");
    const marks = await Promise.all(Array.from({ length: 12 }, () => ana.client.receipts("@2")));
    assert.deepEqual(marks.map(({ members }) => members.length), Array.from({ length: 12 }, () => 2));
  } finally {
    await ana.client.close();
    await holdfast.remove();
  }
});

test("a token that is not good ends it; a device that comes twice replaces the first", options, async () => {
  const holdfast = await Holdfast.start();
  const ana = await Device.open(holdfast, "1");
  try {
    await ana.open();
    const replaced = ana.next("state", ({ name }) => name === "ended");
    const second = await Client.open({ url: holdfast.url, token: holdfast.token("1", "device"), onEntries: () => {} });
    second.connect();
    const { why } = (await replaced) as { why?: { code?: number } };
    assert.equal(why?.code, 4003);
    await second.close();
    const wrong = await Client.open({ url: holdfast.url, token: "wrong", device: "d", onEntries: () => {} });
    const ended = new Promise<void>((resolve) => {
      wrong.on("state", (state) => {
        if (state.name !== "ended") return;
        assert(state.why.kind === "closed");
        assert.deepEqual([state.why.code, state.why.error?.code], [4000, "unauthorized"]);
        resolve();
      });
    });
    wrong.connect();
    await ended;
  } finally {
    await ana.client.close();
    await holdfast.remove();
  }
});
