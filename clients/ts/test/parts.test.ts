/** The small parts by themselves: numbers, delays, signs of life, pace, and what is read from the wire. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { afterClose, Backoff, STABLE_MS } from "../src/backoff.ts";
import { checkContent, checkConversation, checkText } from "../src/checks.ts";
import { FrameError, parseServerFrame } from "../src/frames.ts";
import { Heartbeat } from "../src/heartbeat.ts";
import { compareIds, conversationId, isId, nextId, toId } from "../src/ids.ts";
import { fromBase64, toBase64 } from "../src/messages.ts";
import { Pace } from "../src/pace.ts";
import { keptOf } from "../src/store.ts";

test("numbers beyond 2^53 are exact", () => {
  assert.equal(nextId("9007199254740993"), "9007199254740994");
  assert.equal(toId(18446744073709551615n, "id"), "18446744073709551615");
  assert(compareIds("9007199254740993", "9007199254740992") > 0);
  assert(compareIds("9", "10") < 0);
  assert.equal(compareIds("10", "10"), 0);
  for (const wrong of ["", "01", "-1", "1.5", "1e3", "18446744073709551616"]) {
    assert(!isId(wrong), wrong);
    assert.throws(() => toId(wrong, "seq"), /seq is a number from 0/);
  }
});

test("every name of a direct conversation is the same conversation", () => {
  for (const name of ["@43", "42:43", "43:42"]) assert.equal(conversationId(name, "42"), "42:43");
  assert.equal(conversationId("@9", "18446744073709551615"), "9:18446744073709551615");
  assert.equal(conversationId("g7", "42"), "g7");
});

test("close codes say whether to come back", () => {
  const never = [1000, 1002, 1003, 1007, 1008, 1009, 1010, 4000, 4001, 4003, 4099];
  const afterDelay = [1001, 1005, 1006, 1011, 1012, 1013, 1015, 4100, 4103, 4199, 4300, 4999];
  const atOnce = [4200, 4299];
  for (const code of never) assert.equal(afterClose(code), "never", String(code));
  for (const code of afterDelay) assert.equal(afterClose(code), "afterDelay", String(code));
  for (const code of atOnce) assert.equal(afterClose(code), "atOnce", String(code));
});

test("the bound of delays doubles up to its maximum, and starts again after a success", () => {
  const latest = () => 1;
  const backoff = new Backoff(1_000, 60_000);
  const delays = Array.from({ length: 8 }, () => backoff.next(0, null, "afterDelay", latest));
  assert.deepEqual(delays, [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
  assert.equal(backoff.next(5, STABLE_MS - 1, "afterDelay", latest), 60_005);
  assert.equal(backoff.next(5, STABLE_MS, "afterDelay", latest), 1_005);
  // Full jitter: from nothing at all.
  assert.equal(backoff.next(5, null, "afterDelay", () => 0), 5);
  for (let failures = 0; failures < 100; failures += 1) backoff.next(0, null, "afterDelay", latest);
  assert.equal(backoff.next(0, null, "afterDelay", latest), 60_000);
});

test("what the server said about coming back counts first", () => {
  const latest = () => 1;
  const backoff = new Backoff(1_000, 60_000);
  backoff.notBefore(7_000);
  assert.equal(backoff.next(100, null, "afterDelay", latest), 8_000);
  // A time of its own is kept exactly, whatever else is said; once.
  backoff.comeBackAt(9_000);
  backoff.notBefore(50_000);
  assert.equal(backoff.next(100, null, "atOnce", latest), 9_000);
  assert.equal(backoff.next(100, null, "afterDelay", latest), 4_100);
  backoff.comeBackAt(50);
  assert.equal(backoff.next(100, null, "afterDelay", () => 0), 100);
  assert.equal(backoff.next(100, null, "never", latest), null);
});

test("at once is believed once", () => {
  const backoff = new Backoff(1_000, 60_000);
  assert.equal(backoff.next(100, STABLE_MS, "atOnce", () => 1), 100);
  assert.equal(backoff.next(100, 5, "atOnce", () => 1), 2_100);
});

test("a quiet connection beats before its time, and an unanswered beat is the end", () => {
  const heartbeat = new Heartbeat(30_000, 0);
  assert.equal(heartbeat.nextMs(), 27_000);
  assert.equal(heartbeat.due(26_999), null);
  assert.equal(heartbeat.due(27_000), "beat");
  heartbeat.ask(27_000);
  heartbeat.hear(27_010);
  assert.equal(heartbeat.nextMs(), 54_000);
  heartbeat.ask(54_000);
  assert.equal(heartbeat.due(68_999), null);
  assert.equal(heartbeat.due(69_000), "dead");
});

test("who speaks all the time and hears nothing asks, and gives up", () => {
  const heartbeat = new Heartbeat(30_000, 0);
  for (let nowMs = 0; nowMs < 54_000; nowMs += 1_000) {
    assert.equal(heartbeat.due(nowMs), null);
    heartbeat.speak(nowMs);
  }
  assert.equal(heartbeat.due(54_000), "beat");
  heartbeat.ask(54_000);
  heartbeat.speak(68_000);
  assert.equal(heartbeat.due(69_000), "dead");
});

test("no server can ask for a busy loop", () => {
  assert.equal(new Heartbeat(0, 0).nextMs(), 900);
});

test("a burst, then the rate, and never before the server's word", () => {
  const pace = new Pace(20, 100, 0);
  let burst = 0;
  while (pace.take(0)) burst += 1;
  assert.equal(burst, 90);
  assert.equal(pace.nextMs(0), 50);
  assert(!pace.take(49));
  assert(pace.take(50));
  let inASecond = 0;
  for (let nowMs = 51; nowMs <= 1_050; nowMs += 1) if (pace.take(nowMs)) inASecond += 1;
  assert.equal(inASecond, 20);
  pace.pauseUntil(20_000);
  assert.equal(pace.nextMs(1_050), 20_000);
  assert(!pace.take(19_999));
  assert(pace.take(20_000));
  assert.equal(new Pace(0, 0, 0).nextMs(5), 5);
});

test("frames, entries and fields of a later version are passed on", () => {
  assert.deepEqual(parseServerFrame('{"hologram":{"user":"5"}}'), { kind: "other", name: "hologram", content: { user: "5" } });
  assert.equal(parseServerFrame('{"toString":{}}').kind, "other");
  assert.equal(parseServerFrame("{}").kind, "other");
  const entry = { setting: { name: "x" } };
  assert.deepEqual(parseServerFrame(JSON.stringify({ event: { rev: "3", entry } })), { kind: "event", event: { rev: "3", entry } });
  const drain = parseServerFrame('{"drain":{"afterMs":5,"to":"","new":1}}');
  assert.deepEqual(drain, { kind: "drain", afterMs: 5, to: "" });
});

test("what this client relies on is read strictly", () => {
  const wrong = [
    "",
    "hello",
    "[]",
    "null",
    '{"event":5}',
    '{"event":{"rev":5}}',
    '{"event":{"rev":"x"}}',
    '{"event":{"rev":"1","entry":[]}}',
    '{"event":{"rev":"1","entry":{"message":{"seq":1}}}}',
    '{"page":{"events":[5]}}',
    '{"page":{"live":1}}',
    '{"drain":{"afterMs":-1}}',
    '{"error":{"code":5}}',
    '{"receipts":{"members":{}}}',
  ];
  for (const text of wrong) assert.throws(() => parseServerFrame(text), FrameError);
});

test("what the server could not read is refused where it was written", () => {
  assert.throws(() => checkText("half: \ud83d"), { code: "bad_text" });
  assert.equal(checkText("whole: 👋"), "whole: 👋");
  for (const name of ["@43", "42:43", "g7"]) assert.equal(checkConversation(name), name);
  for (const name of ["", "43", "@", "g", "@4x", "g07", "1:2:3", ":2"]) {
    assert.throws(() => checkConversation(name), { code: "bad_conversation" });
  }
  const tooLarge = { code: "message_too_large" };
  checkContent({ text: "éé" }, 4);
  assert.throws(() => checkContent({ text: "éé" }, 3), tooLarge);
  checkContent({ custom: { contentType: "a/b", data: toBase64(new Uint8Array(4)) } }, 4);
  assert.throws(() => checkContent({ custom: { contentType: "a/b", data: toBase64(new Uint8Array(5)) } }, 4), tooLarge);
});

test("bytes are base64, in either alphabet", () => {
  const bytes = Uint8Array.from([0, 255, 254, 62, 63]);
  assert.deepEqual([...fromBase64(toBase64(bytes))], [...bytes]);
  assert.deepEqual([...fromBase64("__8")], [255, 255]);
});

test("a spoilt store is not taken for an empty one", () => {
  assert.deepEqual(keptOf({ cursor: "5", outbox: [] }), { cursor: "5", outbox: [] });
  for (const wrong of [{}, null, { cursor: "x", outbox: [] }, { cursor: null, outbox: {} }, { cursor: null, outbox: [{}] }]) {
    assert.throws(() => keptOf(wrong), /neither a cursor nor an outbox/);
  }
});
