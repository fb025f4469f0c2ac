/** The state machine against a server that the test plays: what is lost, doubled, late, reordered or refused. */

import assert from "node:assert/strict";
import { test } from "node:test";

import type { History, Receipts } from "../src/frames.ts";
import type { Machine } from "../src/machine.ts";
import { entries, entry, Harness, send } from "./harness.ts";

const request = (clientId: string, conversation?: string) => (machine: Machine) => void machine.request(send(clientId, conversation));

// ---- coming and going

test("hello says who is there and how far it is", () => {
  const fresh = new Harness();
  fresh.connect();
  assert.deepEqual(fresh.sent(), [{ hello: { token: "token", device: "phone", everyEntry: true } }]);
  fresh.welcome({ cursor: "9007199254740993" });
  assert.equal(fresh.machine.cursor, "9007199254740993", "a new device begins where the server lets it");
  const known = new Harness({ kept: { cursor: "17", outbox: [] } });
  known.connect();
  assert.deepEqual(known.sent(), [{ hello: { token: "token", device: "phone", everyEntry: true, cursor: "17" } }]);
});

test("close codes end it, delay it, or bring it back at once", () => {
  const after = (code: number) => {
    const harness = Harness.open({}, () => 0.5);
    harness.closed(code);
    return harness.delayMs();
  };
  assert.equal(after(4003), null);
  assert.equal(after(1000), null);
  assert.equal(after(4101), 500);
  assert.equal(after(1006), 500);
  assert.equal(after(4200), 0);
});

test("the end tells what the server said before", () => {
  const harness = new Harness({ kept: { cursor: "5", outbox: [] } });
  harness.connect();
  harness.refuse("cursor_ahead");
  harness.closed(4002);
  const [state] = harness.eventsOf("state").slice(-1);
  const error = { code: "cursor_ahead", message: "cursor_ahead, says the server" };
  assert.deepEqual(state?.state, { name: "ended", why: { kind: "closed", code: 4002, reason: "", error } });
  harness.ask((machine) => machine.startOver());
  harness.sent();
  harness.connect();
  assert.deepEqual(harness.sent(), [{ hello: { token: "token", device: "phone", everyEntry: true, cursor: "0" } }]);
});

test("what an older connection said or did counts for that one alone", () => {
  const harness = Harness.open();
  harness.refuse("overloaded");
  harness.closed(1006);
  assert.equal(harness.eventsOf("state").length, 1);
  harness.closed(1006);
  assert.deepEqual(harness.events(), [], "it is closed already");
  harness.reconnect();
  harness.events();
  harness.closed(4003);
  const [ended] = harness.eventsOf("state");
  assert(ended?.state.name === "ended" && ended.state.why.kind === "closed");
  assert.equal(ended.state.why.error, null);
});

test("drain gives a time and a place of its own", () => {
  const harness = Harness.open({}, () => 0.5);
  harness.give({ drain: { afterMs: 2_500, to: "ws://other/ws" } });
  harness.wait(100);
  harness.closed(1012);
  assert.equal(harness.delayMs(), 2_400);
  harness.wait(2_399);
  assert.deepEqual(harness.events(), []);
  harness.wait(1);
  assert.deepEqual(harness.eventsOf("connect"), [{ kind: "connect", url: "ws://other/ws", isTokenRefused: false }]);
  // Once: the next connection goes where it always goes.
  harness.closed(1006);
  harness.wait(10_000);
  assert.equal(harness.eventsOf("connect")[0]?.url, "ws://server/ws");
});

test("a token does not go where others can read it, whoever asks for that", () => {
  const harness = Harness.open({ url: "wss://server/ws" });
  harness.give({ drain: { afterMs: 0, to: "ws://other/ws" } });
  harness.closed(1012);
  harness.wait(1_000);
  assert.equal(harness.eventsOf("connect")[0]?.url, "wss://server/ws");
});

test("an error's delay is kept before the next attempt, with jitter", () => {
  const harness = Harness.open({}, () => 0.5);
  harness.refuse("overloaded", { retryAfterMs: 7_000 });
  harness.closed(4103);
  assert.equal(harness.delayMs(), 7_500);
});

test("delays grow with failures, within their bounds", () => {
  for (const share of [0, 0.5, 0.999]) {
    const harness = new Harness({}, () => share);
    harness.connect();
    for (let failure = 0; failure < 12; failure += 1) {
      harness.closed(1006);
      const boundMs = Math.min(1_000 * 2 ** failure, 60_000);
      assert.equal(harness.delayMs(), Math.round(share * boundMs));
      harness.reconnect();
    }
  }
});

test("a server that takes everything and says nothing is given up", () => {
  const harness = new Harness({ connectTimeoutMs: 15_000 });
  harness.connect();
  harness.events();
  harness.wait(14_999);
  assert.deepEqual(harness.events(), []);
  harness.wait(1);
  const [disconnect, state] = harness.events();
  assert.equal(disconnect?.kind, "disconnect");
  assert(state?.kind === "state" && state.state.name === "waiting" && state.state.why.kind === "connectTimeout");
});

test("it beats as welcome says, and gives up a connection from which nothing comes", () => {
  const harness = Harness.open();
  harness.closed(1006);
  harness.reconnect();
  harness.welcome({ heartbeatMs: 10_000 });
  harness.sent();
  for (let beat = 0; beat < 3; beat += 1) {
    harness.wait(9_000);
    assert.deepEqual(harness.sent(), [{ ping: { nonce: "0" } }]);
    harness.give({ pong: { nonce: "0" } });
  }
  harness.events();
  harness.wait(9_000 + 9_999);
  assert.deepEqual(harness.events(), []);
  harness.wait(1);
  const [disconnect, state] = harness.events();
  assert.equal(disconnect?.kind, "disconnect");
  assert(state?.kind === "state" && state.state.name === "waiting" && state.state.why.kind === "silent");
});

test("hurry connects now, or asks who is there", () => {
  const harness = Harness.open({}, () => 0.999);
  harness.ask((machine) => machine.hurry(harness.nowMs));
  assert.deepEqual(harness.sent(), [{ ping: { nonce: "0" } }]);
  harness.closed(1006);
  assert.equal(harness.delayMs(), 999);
  harness.ask((machine) => machine.hurry(harness.nowMs));
  assert.equal(harness.eventsOf("connect").length, 1);
});

test("a refused token is replaced once, where there is another", () => {
  const harness = new Harness({ canRenewToken: true });
  harness.connect();
  harness.events();
  harness.closed(4001);
  harness.wait(0);
  assert.deepEqual(harness.eventsOf("connect"), [{ kind: "connect", url: "ws://server/ws", isTokenRefused: true }]);
  harness.opened(true);
  harness.closed(4000);
  assert.equal(harness.eventsOf("state")[0]?.state.name, "ended");
  // One that was good and has expired is another matter.
  const long = new Harness({ canRenewToken: true });
  long.connect();
  long.opened(true);
  long.welcome();
  long.closed(4001);
  assert.equal(long.eventsOf("state").at(-1)?.state.name, "waiting");
  const fixed = Harness.open();
  fixed.closed(4001);
  assert.equal(fixed.eventsOf("state").at(-1)?.state.name, "ended");
});

test("what breaks the protocol breaks the connection, and it comes back", () => {
  const breaks = [{ event: { rev: 5 } }, { welcome: { user: "42" } }];
  for (const frame of breaks) {
    const harness = Harness.open();
    harness.give(frame);
    const [disconnect, state] = harness.events();
    assert.equal(disconnect?.kind, "disconnect");
    assert(state?.kind === "state" && state.state.name === "waiting" && state.state.why.kind === "protocol");
  }
  const early = new Harness();
  early.connect();
  early.give({ event: entry(1) });
  assert.equal(early.eventsOf("state").at(-1)?.state.name, "waiting");
});

// ---- the outbox

test("one request of a conversation is in flight, others do not wait for it", () => {
  const harness = Harness.open();
  for (const name of ["a", "b"]) harness.ask(request(name, "@43"));
  // Another name of the same conversation, and another conversation.
  harness.ask(request("c", "42:43"));
  harness.ask(request("d", "g7"));
  assert.deepEqual(harness.names(), ["a", "d"]);
  harness.accept("a");
  assert.deepEqual(harness.names(), ["b"]);
  harness.accept("b");
  assert.deepEqual(harness.names(), ["c"]);
});

test("what was not answered goes out again after a reconnect, in order, under the same name", () => {
  const harness = Harness.open();
  for (const name of ["a", "b", "c"]) harness.ask(request(name));
  harness.accept("a");
  assert.deepEqual(harness.names(), ["a", "b"]);
  for (let times = 0; times < 3; times += 1) {
    harness.closed(1006);
    harness.reconnect();
    assert.deepEqual(harness.names(), [], "nothing before welcome");
    harness.welcome();
    assert.deepEqual(harness.names(), ["b"]);
  }
  harness.events();
  harness.accept("b");
  harness.accept("b");
  assert.equal(harness.eventsOf("accepted").length, 1, "an answer that comes twice counts once");
  assert.deepEqual(harness.names(), ["c"]);
});

test("a refusal that means later keeps the place in the order", () => {
  const harness = Harness.open();
  for (const name of ["a", "b"]) harness.ask(request(name));
  harness.sent();
  harness.refuse("rate_limited", { clientId: "a", retryAfterMs: 700 });
  harness.wait(699);
  assert.deepEqual(harness.names(), []);
  harness.wait(1);
  assert.deepEqual(harness.names(), ["a"]);
  harness.refuse("storage_failed", { clientId: "a" });
  harness.wait(1_000);
  assert.deepEqual(harness.names(), ["a"]);
  harness.accept("a");
  assert.deepEqual(harness.names(), ["b"]);
  assert.deepEqual(harness.eventsOf("rejected"), []);
});

test("a refusal for good takes it out, and tells why", () => {
  const harness = Harness.open();
  for (const name of ["a", "b"]) harness.ask(request(name));
  harness.sent();
  harness.refuse("not_allowed", { clientId: "a" });
  const [rejected] = harness.eventsOf("rejected");
  assert.deepEqual([rejected?.clientId, rejected?.error.code], ["a", "not_allowed"]);
  assert.deepEqual(harness.names(), ["b"]);
});

test("it goes no faster than the server takes", () => {
  const harness = new Harness();
  harness.connect();
  harness.welcome({ limits: { messageBytes: 0, pageEntries: 0, sendPerSecond: 10, sendBurst: 10 } });
  harness.sent();
  for (let index = 0; index < 30; index += 1) harness.ask(request(`r${index}`, `g${index + 1}`));
  assert.equal(harness.names().length, 9);
  harness.wait(1_000);
  assert.equal(harness.names().length, 10);
});

test("the outbox has its limits", () => {
  const harness = new Harness({ outboxRequests: 2 });
  harness.machine.request(send("a"));
  assert.throws(() => harness.machine.request(send("a")), { code: "duplicate" });
  harness.machine.request(send("b"));
  assert.throws(() => harness.machine.request(send("c")), { name: "RequestError", code: "outbox_full", requests: 2 });
  harness.connect();
  harness.welcome();
  harness.accept("a");
  harness.machine.request(send("c"));
  const bytes = JSON.stringify(send("a")).length;
  const small = new Harness({ outboxBytes: 2 * bytes });
  small.machine.request(send("a"));
  small.machine.request(send("b"));
  assert.throws(() => small.machine.request(send("c")), { code: "outbox_full", bytes: 2 * bytes });
});

test("a request goes out when it is stored, and a store that fails holds nothing up", () => {
  const harness = Harness.open();
  harness.isStoreSlow = true;
  harness.ask(request("a"));
  assert.deepEqual(harness.names(), []);
  assert.deepEqual(harness.saves.at(-1)?.kept.outbox, [send("a")]);
  harness.stored();
  assert.deepEqual(harness.names(), ["a"]);
  harness.accept("a");
  assert.deepEqual(harness.saves.at(-1)?.kept.outbox, []);
  harness.ask(request("b"));
  harness.stored(false);
  assert.deepEqual(harness.names(), ["b"]);
});

test("what a restart left behind goes out first", () => {
  const harness = new Harness({ kept: { cursor: "3", outbox: [send("a"), send("b")] }, outboxRequests: 1 });
  harness.connect();
  harness.welcome();
  assert.deepEqual(harness.names(), ["a"]);
  harness.accept("a");
  assert.deepEqual(harness.names(), ["b"]);
  assert.equal(harness.eventsOf("accepted")[0]?.accepted.clientId, "a");
});

test("a request that the server cannot read is found, and what comes after it goes on", () => {
  const harness = Harness.open();
  harness.ask(request("bad", "g1"));
  harness.ask(request("good", "g2"));
  harness.ask(request("next", "g1"));
  assert.deepEqual(harness.names(), ["bad", "good"]);
  harness.refuse("bad_frame");
  harness.ask(request("other", "g3"));
  assert.deepEqual([harness.names(), harness.eventsOf("rejected")], [[], []], "it could be either");
  harness.accept("good");
  const [rejected] = harness.eventsOf("rejected");
  assert.deepEqual([rejected?.clientId, rejected?.error.code], ["bad", "bad_frame"]);
  assert.deepEqual(harness.names(), ["next", "other"]);
});

// ---- the inbox

test("entries come once and in order, whatever mixture of pages and events brings them", () => {
  const harness = new Harness({ kept: { cursor: "10", outbox: [] } });
  harness.connect();
  harness.welcome({ cursor: "10", head: "14" });
  harness.page(entries(11, 12), false);
  harness.give({ event: entry(12) });
  harness.page(entries(12, 14), true);
  harness.give({ event: entry(15) });
  harness.give({ event: entry(11) });
  harness.page(entries(11, 16), true);
  assert.deepEqual(harness.revs, ["11", "12", "13", "14", "15", "16"]);
  assert(!harness.sent().some((frame) => "sync" in frame), "nothing was missing");
});

test("a hole is asked for once, and healed", () => {
  const harness = Harness.open();
  harness.give({ event: entry(1) });
  harness.give({ event: entry(3) });
  harness.give({ event: entry(4) });
  assert.deepEqual(harness.sent().filter((frame) => "sync" in frame), [{ sync: { after: "1", limit: 0, everyEntry: true } }]);
  harness.page(entries(2, 3), false);
  harness.give({ event: entry(5) });
  harness.page(entries(4, 5), true);
  harness.give({ event: entry(6) });
  assert.deepEqual(harness.revs, ["1", "2", "3", "4", "5", "6"]);
});

test("gap is healed from the cursor", () => {
  const harness = Harness.open();
  harness.give({ event: entry(1) });
  harness.sent();
  harness.give({ gap: { from: "2", to: "9", why: "slow" } });
  assert.deepEqual(harness.sent(), [{ sync: { after: "1", limit: 0, everyEntry: true } }]);
  assert.equal(harness.eventsOf("gap").length, 1);
  harness.page(entries(2, 9), true);
  assert.deepEqual(harness.eventsOf("live"), [{ kind: "live", rev: "9" }]);
  assert.equal(harness.revs.length, 9);
});

test("a sync that is refused for now is said again", () => {
  const harness = Harness.open();
  harness.give({ event: entry(2) });
  assert.deepEqual(harness.sent(), [{ sync: { after: "0", limit: 0, everyEntry: true } }]);
  harness.refuse("storage_failed", { retryAfterMs: 400 });
  harness.wait(399);
  assert.deepEqual(harness.sent(), []);
  harness.wait(1);
  assert.deepEqual(harness.sent(), [{ sync: { after: "0", limit: 0, everyEntry: true } }]);
});

test("a page that begins too late is asked for once more, not in a loop", () => {
  const harness = Harness.open();
  for (let times = 0; times < 5; times += 1) harness.page(entries(5, 6), false);
  assert.deepEqual(harness.sent(), [{ sync: { after: "0", limit: 0, everyEntry: true } }]);
  harness.wait(15_000);
  assert(harness.events().some((event) => event.kind === "disconnect"), "nor for ever");
});

test("a server that goes on from too far is told so", () => {
  const harness = new Harness({ kept: { cursor: "3", outbox: [] } });
  harness.connect();
  harness.welcome({ cursor: "9", head: "9" });
  assert.deepEqual(harness.sent().slice(1, 2), [{ sync: { after: "3", limit: 0, everyEntry: true } }]);
  harness.page(entries(4, 9), true);
  assert.equal(harness.revs.at(-1), "9");
});

test("a page that does not come ends the connection", () => {
  const harness = new Harness({ kept: { cursor: "0", outbox: [] } });
  harness.connect();
  harness.welcome({ head: "9" });
  harness.wait(14_999);
  harness.page(entries(1, 3), false);
  harness.wait(14_999);
  assert(!harness.events().some((event) => event.kind === "disconnect"));
  harness.wait(1);
  assert(harness.events().some((event) => event.kind === "disconnect"));
});

test("only what is handled and stored is acknowledged, and not too often", () => {
  const harness = Harness.open();
  const acks = () => harness.sent().filter((frame) => "ack" in frame);
  harness.isBusy = true;
  harness.page(entries(1, 3), true);
  harness.wait(5_000);
  assert.deepEqual(acks(), []);
  harness.isBusy = false;
  harness.isStoreSlow = true;
  harness.ask(() => {});
  harness.wait(5_000);
  assert.deepEqual([harness.revs, acks()], [["1", "2", "3"], []]);
  harness.stored(false);
  assert.deepEqual(acks(), [], "what could not be stored is not acknowledged");
  harness.give({ event: entry(4) });
  harness.stored();
  assert.deepEqual(acks(), [{ ack: { rev: "4" } }]);
  harness.isStoreSlow = false;
  for (let rev = 5; rev <= 9; rev += 1) harness.give({ event: entry(rev) });
  assert.deepEqual(acks(), []);
  harness.wait(1_000);
  assert.deepEqual(acks(), [{ ack: { rev: "9" } }]);
});

test("the next connection goes on from what is stored, and what comes twice by that is dropped", () => {
  const harness = Harness.open();
  harness.isStoreSlow = true;
  harness.page(entries(1, 3), true);
  harness.closed(1006);
  harness.wait(1_000);
  harness.sent();
  harness.opened();
  assert.deepEqual(harness.sent(), [{ hello: { token: "token", device: "phone", everyEntry: true, cursor: "0" } }]);
  harness.welcome({ cursor: "0", head: "4" });
  harness.page(entries(1, 4), true);
  assert.deepEqual(harness.revs, ["1", "2", "3", "4"]);
  assert(!harness.sent().some((frame) => "sync" in frame));
});

test("an acknowledgement that may have been lost is said again", () => {
  const harness = Harness.open();
  harness.give({ event: entry(1) });
  assert.deepEqual(harness.sent(), [{ ack: { rev: "1" } }]);
  harness.refuse("rate_limited", { retryAfterMs: 3_000 });
  harness.wait(2_999);
  assert.deepEqual(harness.sent(), []);
  harness.wait(1);
  assert.deepEqual(harness.sent(), [{ ack: { rev: "1" } }]);
  harness.closed(1006);
  harness.reconnect();
  harness.welcome();
  assert.deepEqual(harness.sent().slice(1), [{ ack: { rev: "1" } }]);
});

test("an application that does not keep up costs no memory, and loses nothing", () => {
  const harness = Harness.open({ inboxEntries: 10 });
  harness.isBusy = true;
  for (let rev = 1; rev <= 50; rev += 1) harness.give({ event: entry(rev) });
  harness.wait(20_000);
  assert.equal(harness.machine.cursor, "10");
  assert(!harness.sent().some((frame) => "sync" in frame), "it is not asked for while there is no room");
  harness.isBusy = false;
  harness.ask(() => {});
  assert(harness.sent().some((frame) => "sync" in frame && frame.sync.after === "10"));
  harness.page(entries(11, 50), true);
  // Its room is smaller than a page: the rest comes in pieces.
  for (let times = 0; times < 10 && harness.machine.cursor !== "50"; times += 1) {
    const [sync] = harness.sent().flatMap((frame) => ("sync" in frame ? [frame.sync.after] : []));
    assert(sync !== undefined, "it asks for the rest");
    harness.page(entries(Number(sync) + 1, 50), true);
  }
  assert.deepEqual(harness.revs, entries(1, 50).map(({ rev }) => rev));
});

test("an entry of an unknown kind has its place, and is acknowledged", () => {
  const harness = Harness.open();
  harness.give({ event: { rev: "1", entry: { setting: { name: "x" } } } });
  harness.page([{ rev: "2", entry: {} }, entry(3)], true);
  assert.deepEqual(harness.revs, ["1", "2", "3"]);
  harness.wait(1_000);
  assert.deepEqual(harness.sent().at(-1), { ack: { rev: "3" } });
});

test("a frame of an unknown kind does no harm, before and after welcome", () => {
  const harness = new Harness();
  harness.connect();
  harness.give({ hologram: { user: "43" } });
  harness.welcome();
  harness.give({ something: { list: [] } });
  harness.give({ event: entry(1) });
  assert.deepEqual(harness.revs, ["1"]);
  assert.deepEqual(harness.eventsOf("other").map(({ name }) => name), ["hologram", "something"]);
});

const part = (rev: number, names: string[], end: boolean) => {
  const state = { unread: "0", read: "0", title: "", role: "MEMBER", gone: false, messages: [], rev: String(rev) };
  return { snapshot: { conversations: names.map((conversation) => ({ conversation, ...state })), rev: String(rev), end } };
};

test("a snapshot stands in the place of the entries before it", () => {
  const harness = new Harness({ takesSnapshots: true, kept: { cursor: "5", outbox: [] } });
  harness.connect();
  assert.deepEqual(harness.sent(), [{ hello: { token: "token", device: "phone", everyEntry: false, cursor: "5" } }]);
  harness.welcome({ cursor: "5", head: "20002" });
  // One that is broken off by the next counts for nothing; nor does a part that comes twice.
  harness.give(part(19_000, ["g1", "g9"], false));
  harness.give(part(20_000, ["g1"], false));
  harness.give(part(20_000, ["g1", "g2"], false));
  assert.deepEqual([harness.snapshots, harness.machine.cursor], [[], "5"]);
  harness.give(part(20_000, ["g3"], true));
  harness.page(entries(20_001, 20_002), true);
  const [snapshot] = harness.snapshots;
  assert.deepEqual([snapshot?.rev, snapshot?.conversations.map(({ conversation }) => conversation)], ["20000", ["g1", "g2", "g3"]]);
  assert.deepEqual(harness.revs, ["20001", "20002"]);
  harness.wait(1_000);
  assert.deepEqual(harness.sent().at(-1), { ack: { rev: "20002" } });
  assert.deepEqual(harness.eventsOf("live"), [{ kind: "live", rev: "20002" }]);
  harness.give(part(20_000, ["g1"], true));
  assert.equal(harness.snapshots.length, 1, "one that is behind is not taken");
});

test("a snapshot comes after the entries before it, and before those after it", () => {
  const harness = Harness.open({ takesSnapshots: true });
  harness.isBusy = true;
  harness.give({ event: entry(1) });
  harness.give(part(50, ["g1"], true));
  harness.give({ event: entry(51) });
  harness.isBusy = false;
  harness.ask(() => {});
  assert.deepEqual([harness.snapshots.map(({ rev }) => rev), harness.revs], [["50"], ["51"]], "what it contains is left out");
});

test("who did not ask for a snapshot does not get one", () => {
  const harness = Harness.open();
  harness.give(part(50, ["g1"], true));
  assert.equal(harness.events()[0]?.kind, "disconnect");
});

// ---- queries

const history = (conversation: string, seqs: number[]): { history: History } => {
  const message = { messageId: "1", sender: "43", clientId: "", device: "", timeMs: "0", body: { text: "x" } };
  const messages = seqs.map((seq) => ({ conversation, seq: String(seq), ...message }));
  return { history: { conversation, messages, head: "99", end: false } };
};

const receipts = (conversation: string, read: { [user: string]: number }): { receipts: Receipts } => {
  const members = Object.entries(read).map(([user, seq]) => ({ user, read: String(seq), delivered: String(seq) }));
  return { receipts: { conversation, members } };
};

test("one query is in flight, and its answer is told from others", () => {
  const harness = Harness.open();
  const ids: number[] = [];
  harness.ask((machine) => ids.push(machine.query({ history: { conversation: "@43", before: "30", limit: 5 } })));
  harness.ask((machine) => ids.push(machine.query({ receipts: { conversation: "@43" } })));
  assert.deepEqual(harness.sent(), [{ history: { conversation: "@43", before: "30", limit: 5 } }]);
  harness.give(history("g7", [1]));
  harness.give(history("42:43", [30, 31]));
  assert.deepEqual(harness.eventsOf("answered"), [], "neither was asked for");
  harness.give(history("42:43", [28, 29]));
  assert.deepEqual(harness.eventsOf("answered").map(({ id }) => id), ids.slice(0, 1));
  assert.deepEqual(harness.sent(), [{ receipts: { conversation: "@43" } }]);
  harness.give(receipts("42:43", { 43: 5 }));
  assert.deepEqual(harness.eventsOf("answered"), [], "a note that the other one has read on");
  harness.give(receipts("42:43", { 42: 4 }));
  assert.deepEqual(harness.eventsOf("answered"), [], "another answer to an earlier `read`");
  harness.give(receipts("42:43", { 42: 4, 43: 5 }));
  assert.deepEqual(harness.eventsOf("answered").map(({ id }) => id), ids.slice(1));
});

test("conversations and groups are told to who has asked", () => {
  const harness = Harness.open();
  const state = { conversation: "g7", rev: "3", unread: "2", read: "1", title: "Roof", role: "ADMIN", gone: false, messages: [] };
  const conversations = { conversations: [state], rev: "9", end: true };
  const group = { conversation: "g7", title: "Roof", openHistory: false, members: [{ user: "42", role: "OWNER", joined: "1" }], seq: "9", retentionDays: 0 };
  harness.ask((machine) => machine.query({ conversations: { after: "", limit: 0 } }));
  harness.ask((machine) => machine.query({ group: { conversation: "g7" } }));
  harness.ask((machine) => machine.query({ receipts: { conversation: "g7" } }));
  harness.give({ group });
  assert.deepEqual(harness.eventsOf("answered"), [], "that was not asked yet");
  harness.give({ conversations });
  harness.give({ group: { ...group, conversation: "g8" } });
  harness.give({ group });
  harness.give(receipts("g7", { 43: 4 }));
  assert.equal(harness.eventsOf("answered").length, 2, "a note about somebody is no answer");
  // Of a group that has no other members.
  harness.give(receipts("g7", { 42: 4 }));
  assert.deepEqual(harness.eventsOf("answered").map(({ answer }) => answer), [receipts("g7", { 42: 4 }).receipts]);
});

test("what was read is said until it is durable, and the greatest counts", () => {
  const harness = Harness.open();
  const read = (upTo: string) => harness.ask((machine) => machine.query({ read: { conversation: "@43", upTo } }));
  read("5");
  assert.deepEqual(harness.sent(), [{ read: { conversation: "@43", upTo: "5" } }]);
  for (const upTo of ["7", "9", "8"]) read(upTo);
  harness.closed(1006);
  harness.reconnect();
  harness.welcome();
  assert.deepEqual(harness.sent().slice(1), [{ read: { conversation: "@43", upTo: "5" } }]);
  harness.give(receipts("42:43", { 42: 5 }));
  assert.deepEqual(harness.sent(), [{ read: { conversation: "@43", upTo: "9" } }]);
  harness.give(receipts("42:43", { 42: 8 }));
  assert.equal(harness.eventsOf("answered").length, 1);
  harness.give(receipts("42:43", { 42: 9 }));
  assert.equal(harness.eventsOf("answered").length, 1);
});

test("a refused query is tried again or fails, and the next one goes on", () => {
  const harness = Harness.open();
  harness.ask((machine) => machine.query({ receipts: { conversation: "@43" } }));
  harness.ask((machine) => machine.query({ receipts: { conversation: "g9" } }));
  harness.sent();
  harness.refuse("rate_limited", { retryAfterMs: 500 });
  harness.wait(499);
  assert.deepEqual(harness.sent(), []);
  harness.wait(1);
  assert.deepEqual(harness.sent(), [{ receipts: { conversation: "@43" } }]);
  harness.refuse("unknown_conversation");
  assert.deepEqual(harness.eventsOf("failed").map(({ error }) => error.code), ["unknown_conversation"]);
  harness.wait(500);
  assert.deepEqual(harness.sent(), [{ receipts: { conversation: "g9" } }]);
  harness.wait(14_000);
  harness.give({ pong: {} });
  harness.wait(999);
  assert.deepEqual(harness.events(), []);
  harness.wait(1);
  assert.deepEqual(harness.eventsOf("failed").map(({ error }) => error.code), ["timeout"]);
});

test("queries have their limit and their pace", () => {
  const harness = Harness.open({ queries: 30 });
  for (let index = 0; index < 30; index += 1) harness.ask((machine) => machine.query({ receipts: { conversation: `g${index}` } }));
  assert.throws(() => harness.machine.query({ receipts: { conversation: "g99" } }), { code: "too_many_queries" });
  let asked = 0;
  for (let sent = harness.sent(); sent.length > 0; sent = harness.sent()) {
    asked += sent.length;
    harness.give(receipts(`g${asked - 1}`, { 42: 1, 43: 1 }));
  }
  assert.equal(asked, 9);
  harness.wait(1_000);
  assert.equal(harness.sent().length, 1);
});

test("who is writing is said now or never", () => {
  const harness = Harness.open();
  const typing = { typing: { conversation: "@43", stopped: false } };
  harness.ask((machine) => machine.say(typing));
  assert.deepEqual(harness.sent(), [typing]);
  harness.closed(1006);
  harness.ask((machine) => machine.say(typing));
  harness.reconnect();
  harness.welcome();
  assert(!harness.sent().some((frame) => "typing" in frame));
});

test("each connection is told whom the application watches, and that nobody is there", () => {
  const harness = Harness.open();
  harness.ask((machine) => {
    machine.watch(["43"]);
    machine.watch(["44", "45"]);
    machine.setAway(true);
  });
  assert.deepEqual(harness.sent(), [{ watchPresence: { users: ["44", "45"] } }, { setAway: { away: true } }]);
  const users = [
    { user: "44", online: true, away: false },
    { user: "45", online: false, away: false, lastSeenMs: "1780000000123" },
  ];
  harness.give({ presence: { users } });
  assert.deepEqual(harness.eventsOf("presence"), [{ kind: "presence", users }]);
  // Refused for the moment, perhaps this.
  harness.refuse("rate_limited", { retryAfterMs: 500 });
  harness.wait(499);
  assert.deepEqual(harness.sent(), []);
  harness.wait(10_000);
  assert.deepEqual(harness.sent(), [{ watchPresence: { users: ["44", "45"] } }, { setAway: { away: true } }]);
  harness.ask((machine) => {
    machine.setAway(false);
    machine.watch([]);
  });
  assert.deepEqual(harness.sent(), [{ watchPresence: { users: [] } }, { setAway: { away: false } }]);
  harness.closed(1006);
  harness.reconnect();
  harness.welcome();
  assert(!harness.sent().some((frame) => "watchPresence" in frame || "setAway" in frame));
});

// ---- everything at once

test("under every accident that chance makes, nothing is lost, doubled or reordered", () => {
  for (let seed = 1; seed <= 300; seed += 1) chaos(seed);
});

/** A server that keeps its promises on a network that keeps none. */
function chaos(seed: number): void {
  const random = randomFrom(seed);
  const chance = (share: number) => random() < share;
  const harness = new Harness({ inboxEntries: 7 }, random);
  const log: string[] = [];
  const order = new Map<string, string[]>();
  const wanted = new Map<string, string[]>();
  let isUp = false;
  let told = 0;
  const start = () => {
    harness.reconnect();
    harness.sent();
    told = Number(harness.machine.cursor ?? 0) - Math.floor(random() * 3);
    told = Math.max(told, 0);
    harness.welcome({ cursor: String(told), head: String(log.length) });
    isUp = true;
  };
  harness.ask((machine) => machine.connect(harness.nowMs));
  let names = 0;
  for (let turn = 0; turn < 400 || harness.machine.outbox.length > 0 || harness.machine.cursor !== String(log.length); turn += 1) {
    assert(turn < 5_000, `seed ${seed} does not end`);
    const isCalm = turn >= 400;
    if (!isUp) start();
    harness.isBusy = !isCalm && chance(0.2);
    if (!isCalm && chance(0.3)) {
      const conversation = `g${1 + Math.floor(random() * 3)}`;
      names += 1;
      const name = `n${names}`;
      wanted.set(conversation, [...(wanted.get(conversation) ?? []), name]);
      harness.ask(request(name, conversation));
    }
    harness.ask(() => {});
    for (const frame of harness.sent()) {
      if (!isUp) break;
      if ("sync" in frame) {
        told = Number(frame.sync.after);
      } else if ("send" in frame) {
        const { clientId, conversation } = frame.send;
        if (!isCalm && chance(0.1)) {
          harness.refuse("rate_limited", { clientId, retryAfterMs: 50 });
          continue;
        }
        const had = order.get(conversation) ?? [];
        if (!had.includes(clientId)) {
          order.set(conversation, [...had, clientId]);
          log.push(clientId);
        }
        if (isCalm || chance(0.8)) harness.accept(clientId);
        else {
          // Durable, but the answer is lost with the connection.
          harness.closed(chance(0.5) ? 1006 : 4200);
          isUp = false;
        }
      }
    }
    if (!isUp) continue;
    // What the device has not been told comes as a page or as events; sometimes a gap instead.
    if (told < log.length && (isCalm || chance(0.7))) {
      const size = Math.min(1 + Math.floor(random() * 5), log.length - told);
      const batch = entries(told + 1, told + size);
      if (!isCalm && chance(0.1)) harness.give({ gap: { from: "1", to: "2", why: "" } });
      else if (chance(0.5)) harness.page(batch, told + size === log.length);
      else for (const event of batch) harness.give({ event });
      told += size;
    } else if (!isCalm && chance(0.05)) {
      harness.closed(1006);
      isUp = false;
    } else if (isCalm && told >= log.length) {
      harness.page([], true);
    }
    harness.wait(60);
    if (harness.events().some((event) => event.kind === "disconnect")) isUp = false;
  }
  harness.isBusy = false;
  harness.ask(() => {});
  assert.deepEqual(harness.revs, log.map((_, index) => String(index + 1)), `seed ${seed}: the inbox`);
  assert.deepEqual([...order].sort(), [...wanted].sort(), `seed ${seed}: the order of what was sent`);
}

/** A small generator (mulberry32), so that a seed is a run. */
function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}
