/** The client around the machine: promises, the handler, the store, tokens, and the end. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Client, type ClientOptions } from "../src/client.ts";
import type { Kept } from "../src/machine.ts";
import type { InboxEntry } from "../src/messages.ts";
import { webStore, type Store } from "../src/store.ts";
import { entries, entry, send } from "./harness.ts";
import { settled, World } from "./world.ts";

const whole = (world: World, options: Partial<ClientOptions>): ClientOptions => {
  return { url: "ws://server/ws", token: "token", environment: world, onEntries: () => {}, ...options };
};

async function opened(world: World, options: Partial<ClientOptions> = {}): Promise<Client> {
  const client = await Client.open(whole(world, options));
  client.connect();
  await world.welcome(client.cursor ?? "0");
  world.sent();
  return client;
}

test("a request's promise is kept by its answer, or broken by its refusal", async () => {
  const world = new World();
  const client = await opened(world);
  const group = client.createGroup("Roof", [43n, "44"], { openHistory: true });
  assert.deepEqual(world.sent(), [
    { createGroup: { clientId: "name 1", title: "Roof", members: ["43", "44"], openHistory: true } },
  ]);
  world.give({ accepted: { clientId: "name 1", messageId: "9007199254740993", seq: "1", conversation: "g7" } });
  assert.deepEqual(await group, { clientId: "name 1", messageId: "9007199254740993", seq: "1", conversation: "g7" });
  const rename = client.rename("g7", "Cellar", { clientId: "mine" });
  world.give({ error: { code: "not_allowed", message: "no", retryAfterMs: 0, clientId: "mine" } });
  await assert.rejects(rename, { name: "RequestError", code: "not_allowed", message: "no" });
});

test("every request is written as the schema says", async () => {
  const world = new World();
  const client = await opened(world);
  const clientId = "c";
  const wanted: [() => Promise<unknown>, object][] = [
    [() => client.send("@43", "hi", { clientId }), { send: { clientId, conversation: "@43", body: { text: "hi" } } }],
    [
      () => client.send("@43", { custom: { contentType: "a/b", data: "AA==" } }, { clientId, replyTo: 5n }),
      { send: { clientId, conversation: "@43", body: { custom: { contentType: "a/b", data: "AA==" } }, replyTo: "5" } },
    ],
    [() => client.edit("@43", "5", "ho", { clientId }), { edit: { clientId, conversation: "@43", seq: "5", content: { text: "ho" } } }],
    [() => client.delete("@43", 5n, { clientId }), { delete: { clientId, conversation: "@43", seq: "5" } }],
    [() => client.addMembers("g7", ["45"], { clientId }), { addMembers: { clientId, conversation: "g7", users: ["45"] } }],
    [() => client.removeMember("g7", "45", { clientId }), { removeMember: { clientId, conversation: "g7", user: "45" } }],
    [() => client.leave("g7", { clientId }), { leave: { clientId, conversation: "g7" } }],
    [() => client.rename("g7", "Roof", { clientId }), { rename: { clientId, conversation: "g7", title: "Roof" } }],
    [() => client.setRole("g7", "43", "ADMIN", { clientId }), { setRole: { clientId, conversation: "g7", user: "43", role: "ADMIN" } }],
  ];
  for (const [act, frame] of wanted) {
    const promise = act();
    assert.deepEqual(world.sent(), [frame]);
    world.give({ accepted: { clientId, messageId: "1", seq: "1" } });
    await promise;
  }
  const page = client.history("@43", { after: "5", limit: 20 });
  assert.deepEqual(world.sent(), [{ history: { conversation: "@43", after: "5", limit: 20 } }]);
  world.give({ history: { conversation: "42:43", messages: [], head: "5", end: true } });
  assert.equal((await page).end, true);
  const marks = client.receipts("@43");
  assert.deepEqual(world.sent(), [{ receipts: { conversation: "@43" } }]);
  const members = [{ user: "42", read: "1", delivered: "1" }, { user: "43", read: "2", delivered: "3" }];
  world.give({ receipts: { conversation: "42:43", members } });
  assert.deepEqual((await marks).members, members);
  const list = client.conversations({ after: "g7", limit: 5 });
  assert.deepEqual(world.sent(), [{ conversations: { after: "g7", limit: 5 } }]);
  world.give({ conversations: { conversations: [], rev: "5", end: true } });
  assert.equal((await list).rev, "5");
  const group = client.group("g7");
  assert.deepEqual(world.sent(), [{ group: { conversation: "g7" } }]);
  world.give({ group: { conversation: "g7", title: "Roof", openHistory: false, members: [], seq: "9" } });
  assert.equal((await group).title, "Roof");
  const phone = { device: "phone", online: true, current: true, cursor: "7" };
  const laptop = { device: "laptop", online: false, current: false, lastSeenMs: "1780000000000", cursor: "5" };
  const devices = client.devices();
  assert.deepEqual(world.sent(), [{ devices: {} }]);
  world.give({ devices: { devices: [laptop, phone] } });
  assert.deepEqual(await devices, [laptop, phone]);
  const left = client.revokeDevice("laptop");
  assert.deepEqual(world.sent(), [{ revokeDevice: { device: "laptop" } }]);
  world.give({ devices: { devices: [phone] } });
  assert.deepEqual(await left, [phone]);
  const both = [client.read("@43", "7"), client.read("@43", 7n)];
  assert.deepEqual(world.sent(), [{ read: { conversation: "@43", upTo: "7" } }]);
  world.give({ receipts: { conversation: "42:43", members: [{ user: "42", read: "7", delivered: "7" }] } });
  await both[0];
  world.give({ receipts: { conversation: "42:43", members: [{ user: "42", read: "7", delivered: "7" }] } });
  await both[1];
  world.sent();
  client.typing("@43");
  client.typing("@43", true);
  assert.deepEqual(world.sent(), [
    { typing: { conversation: "@43", stopped: false } },
    { typing: { conversation: "@43", stopped: true } },
  ]);
});

test("people are told of to whoever asked, and to whoever listens", async () => {
  const world = new World();
  const client = await opened(world);
  const ben = { user: "43", contact: false, blocked: true };
  const changes: string[] = [];
  client.on("people", (people) => changes.push(people.presence));
  const block = client.block(43n);
  assert.deepEqual(world.sent(), [{ block: { user: "43" } }]);
  // What another device has changed is no answer.
  world.give({ people: { presence: "contacts", people: [], end: false, changed: true } });
  world.give({ people: { presence: "everyone", people: [ben], end: false, changed: true } });
  assert.deepEqual((await block).people, [ben]);
  const unblock = client.unblock("43");
  assert.deepEqual(world.sent(), [{ unblock: { user: "43" } }]);
  world.give({ people: { presence: "everyone", people: [{ ...ben, blocked: false }], end: false, changed: true } });
  assert.equal((await unblock).people.length, 1);
  const contact = client.setContact("43", true);
  assert.deepEqual(world.sent(), [{ setContact: { user: "43", contact: true } }]);
  world.give({ people: { presence: "everyone", people: [{ ...ben, contact: true }], end: false, changed: true } });
  assert.equal((await contact).people[0]?.contact, true);
  const privacy = client.setPrivacy("nobody");
  assert.deepEqual(world.sent(), [{ setPrivacy: { presence: "nobody" } }]);
  world.give({ people: { presence: "nobody", people: [], end: false, changed: true } });
  assert.equal((await privacy).presence, "nobody");
  assert.deepEqual(changes, ["contacts", "everyone", "everyone", "everyone", "nobody"]);
  const people = client.people({ after: "7", limit: 5 });
  assert.deepEqual(world.sent(), [{ people: { after: "7", limit: 5 } }]);
  world.give({ people: { presence: "nobody", people: [ben], end: true, changed: false } });
  assert.equal((await people).end, true);
});

test("what is not taken throws at once", async () => {
  const world = new World();
  const client = await opened(world, { outboxRequests: 1 });
  assert.throws(() => client.send("@43", "x".repeat(101)), { code: "message_too_large" });
  assert.throws(() => client.send("43", "x"), { code: "bad_conversation" });
  assert.throws(() => client.send("@43", "x", { clientId: "" }), { code: "bad_client_id" });
  assert.throws(() => client.send("@43", "x", { clientId: "x".repeat(65) }), { code: "bad_client_id" });
  assert.throws(() => client.edit("@43", "five", "x"), /seq is a number/);
  assert.throws(() => client.history("@43", { limit: 201 }), /limit is 0 to 200/);
  assert.deepEqual(world.sent(), []);
  void client.send("@43", "x");
  assert.throws(() => client.send("@43", "y"), { name: "RequestError", code: "outbox_full" });
  await assert.rejects(Client.open(whole(world, { url: "https://server/ws" })), /begins with wss: or ws:/);
});

test("a handler gets the next entries when it is done with the last, and acknowledges by that", async () => {
  const world = new World();
  const taken: string[][] = [];
  let finish = () => {};
  const onEntries = (some: readonly InboxEntry[]) => {
    taken.push(some.map(({ rev }) => rev));
    return new Promise<void>((resolve) => (finish = resolve));
  };
  const client = await opened(world, { onEntries });
  world.give({ event: entry(1) });
  world.give({ page: { events: entries(2, 3), live: true } });
  await world.wait(2_000);
  assert.deepEqual(taken, [["1"]]);
  assert.deepEqual(world.sent(), []);
  finish();
  await settled();
  assert.deepEqual(taken, [["1"], ["2", "3"]]);
  assert.deepEqual(world.sent(), [{ ack: { rev: "1" } }]);
  // The end waits for the handler.
  let isClosed = false;
  void client.close().then(() => (isClosed = true));
  await settled();
  assert(!isClosed);
  finish();
  await settled();
  assert(isClosed);
});

test("a handler that fails ends the client, and what it was given comes again", async () => {
  for (const fail of [() => assert.fail("full"), () => Promise.reject(new Error("full"))]) {
    const world = new World();
    let kept: Kept | null = null;
    const store: Store = { load: () => kept, save: (next) => void (kept = next) };
    const client = await opened(world, { onEntries: fail, store });
    world.give({ event: entry(1) });
    await settled();
    assert(client.state.name === "ended" && client.state.why.kind === "handlerFailed");
    assert(!world.isConnected);
    assert.deepEqual(world.sent(), [], "it is not acknowledged");
    const revs: string[] = [];
    const again = await opened(world, { onEntries: (some) => some.forEach(({ rev }) => revs.push(rev)), store });
    world.give({ page: { events: [entry(1)], live: true } });
    assert.deepEqual(revs, ["1"]);
    await again.close();
  }
});

test("an application that keeps the cursor itself acknowledges itself", async () => {
  const world = new World();
  const client = await opened(world, { acknowledge: "manually", cursor: 5n });
  world.give({ event: entry(6) });
  world.give({ event: entry(7) });
  await world.wait(2_000);
  assert.deepEqual(world.sent(), []);
  client.ack("6");
  assert.deepEqual(world.sent(), [{ ack: { rev: "6" } }]);
  assert.throws(() => client.ack("8"), /entries up to 7 have come/);
});

test("a restart loses neither the cursor nor the outbox, and draws no second name", async () => {
  const area = new Map<string, string>();
  const store = webStore({ getItem: (key) => area.get(key) ?? null, setItem: (key, value) => void area.set(key, value) }, "key");
  const world = new World();
  const first = await opened(world, { store });
  world.give({ event: entry(1) });
  const lost = first.send("@43", "hi", { clientId: "a" });
  void first.send("@43", "ho", { clientId: "b" });
  await first.close();
  await assert.rejects(lost, { code: "closed" });
  world.sent();

  const second = await Client.open(whole(world, { store }));
  assert.deepEqual(second.outbox.map((frame) => "send" in frame && frame.send.clientId), ["a", "b"]);
  const accepted: string[] = [];
  second.on("accepted", ({ clientId }) => accepted.push(clientId));
  second.connect();
  await world.welcome("1");
  for (const clientId of ["a", "b"]) world.give({ accepted: { clientId, messageId: "1", seq: "1" } });
  const hello = { hello: { token: "token", device: "", everyEntry: true, cursor: "1" } };
  const bodies = [{ clientId: "a", conversation: "@43", body: { text: "hi" } }, { clientId: "b", conversation: "@43", body: { text: "ho" } }];
  assert.deepEqual(world.sent(), [hello, { ack: { rev: "1" } }, ...bodies.map((body) => ({ send: body }))]);
  assert.deepEqual(accepted, ["a", "b"]);
  assert.deepEqual(JSON.parse(area.get("key") ?? ""), { cursor: "1", outbox: [] });
});

test("a store is written one after the other, and its failure is told but loses no request", async () => {
  const world = new World();
  const saves: { kept: Kept; finish: (error?: Error) => void }[] = [];
  const save = (kept: Kept) =>
    new Promise<void>((resolve, reject) => saves.push({ kept, finish: (error) => (error ? reject(error) : resolve()) }));
  const failures: unknown[] = [];
  const client = await opened(world, { store: { load: () => null, save } });
  client.on("storeFailed", ({ error }) => failures.push(error));
  void client.send("@43", "hi", { clientId: "a" });
  void client.send("g1", "hi", { clientId: "b" });
  assert.deepEqual([saves.length, world.sent()], [1, []]);
  saves[0]?.finish();
  await settled();
  assert.deepEqual(world.sent().length, 1);
  assert.deepEqual(saves[1]?.kept.outbox.length, 2);
  const error = new Error("full");
  saves[1]?.finish(error);
  await settled();
  assert.deepEqual(failures, [error]);
  assert.deepEqual(world.sent(), [send("b", "g1")].map(() => ({ send: { clientId: "b", conversation: "g1", body: { text: "hi" } } })));
});

test("a token comes from where it is got, and again when it was refused", async () => {
  const world = new World();
  let count = 0;
  const token = async () => {
    count += 1;
    if (count === 2) throw new Error("no network");
    return `token ${count}`;
  };
  const client = await Client.open(whole(world, { token }));
  client.connect();
  await world.welcome();
  await world.drop(1006);
  await world.wait(1_000);
  await world.welcome();
  const hellos = () => world.sent().map((frame) => (frame as { hello: { token: string } }).hello.token);
  assert.deepEqual(hellos(), ["token 1", "token 1"]);
  // It has expired; the first try to get another one fails.
  await world.drop(4001);
  await world.wait(60_000);
  await world.welcome();
  assert.deepEqual(hellos(), ["token 3"]);
  // It was good, so another one may be good too, though this connection was never welcomed.
  await world.drop(1006);
  await world.wait(60_000);
  await world.open();
  await world.drop(4001);
  await world.wait(10_000);
  await world.open();
  assert.deepEqual(hellos(), ["token 3", "token 4"]);
  await world.drop(4001);
  assert.equal(client.state.name, "ended", "one that never was good is not replaced");
});

test("a listener that throws is reported, and does not break the client", async () => {
  const world = new World();
  const client = await opened(world);
  const reported: unknown[] = [];
  const queue = globalThis.queueMicrotask;
  globalThis.queueMicrotask = (run) => {
    try {
      run();
    } catch (error) {
      reported.push(error);
    }
  };
  try {
    const seen: string[] = [];
    const stop = client.on("typing", () => assert.fail("broken"));
    client.on("typing", ({ user }) => seen.push(user));
    const typing = { typing: { conversation: "42:43", user: "43", stopped: false } };
    world.give(typing);
    stop();
    world.give(typing);
    assert.deepEqual([seen, reported.length], [["43", "43"], 1]);
  } finally {
    globalThis.queueMicrotask = queue;
  }
});

test("the state says when it will try again, and a late word of an old connection counts for nothing", async () => {
  const world = new World();
  const client = await opened(world, { backoffFirstMs: 5_000, environment: Object.assign(world, { random: () => 0.5 }) });
  await world.drop(4100);
  assert(client.state.name === "waiting");
  assert.equal(client.state.retryAtMs, world.wallMs() + 2_500);
  client.hurry();
  await world.welcome();
  assert.equal(client.state.name, "open");
  await client.close();
  assert.deepEqual(client.state, { name: "ended", why: { kind: "local" } });
  client.connect("another");
  await world.welcome();
  assert(world.sent().some((frame) => JSON.stringify(frame).includes('"token":"another"')));
});
