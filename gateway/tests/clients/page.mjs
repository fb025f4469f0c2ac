// The page in a real browser: two people chat, the server is stopped politely, killed, and comes back.
//
//   node page.mjs HOLDFAST DIRECTORY
//
// HOLDFAST is the server's binary; data and screenshots go into DIRECTORY.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { promisify } from "node:util";
import WebSocket from "ws";
import {
  comeIn,
  connected,
  disconnected,
  end,
  fits,
  inBrowser,
  openTab,
  PHONE,
  say,
  sees,
  serve as start,
} from "./browser.mjs";

const [holdfast, directory] = process.argv.slice(2);
const serve = (listen) => start(holdfast, directory, listen);

/** Sends requests as another device of a user, until all are accepted. */
async function ask(address, user, requests) {
  const data = join(directory, "data");
  const { stdout } = await promisify(execFile)(holdfast, [
    "token",
    "--user",
    user,
    "--device",
    "elsewhere",
    "--data",
    data,
  ]);
  const socket = new WebSocket(`ws://${address}/ws`, ["holdfast.v1.json", `bearer.${stdout.trim()}`]);
  await once(socket, "open");
  let open = requests.length;
  const done = new Promise((resolve, reject) => {
    socket.on("message", (text) => {
      const { accepted, error } = JSON.parse(text);
      if (error) reject(new Error(`${error.code}: ${error.message}`));
      if (accepted && --open === 0) resolve();
    });
  });
  requests.forEach((request) => socket.send(JSON.stringify(request)));
  await done;
  socket.close();
}

/** The client library in the browser, by itself: what it says, hears and keeps. Runs inside the page. */
async function useLibrary(name) {
  const { Client, webStore } = await import("/holdfast-client.js");
  const ask = async (path, body) => {
    const headers = { "Content-Type": "application/json" };
    return (await fetch(path, body && { method: "POST", headers, body: JSON.stringify(body) })).json();
  };
  const { user } = await ask(`/v1/guest/${name}`);
  const texts = [];
  let heard;
  const isHeard = new Promise((resolve) => (heard = resolve));
  const client = await Client.open({
    url: `ws://${location.host}/ws`,
    token: async () => (await ask("/v1/guest", { name: "Cleo", device: "library" })).token,
    store: webStore(localStorage, "library"),
    onEntries: (entries) => {
      for (const { entry } of entries) texts.push(entry.message.body.text ?? Object.keys(entry.message.body)[0]);
      if (texts.length === 3) heard();
    },
  });
  // Taken before there is a connection.
  const group = client.createGroup("Roof", [BigInt(user)]);
  client.connect();
  const { conversation } = await group;
  await Promise.all([client.send(conversation, "one"), client.send(conversation, "two")]);
  await isHeard;
  const { messages } = await client.history(conversation);
  const refused = await client.edit(conversation, "1000", "none").catch(({ code }) => code);
  await client.close();
  const kept = JSON.parse(localStorage.getItem("library"));
  return { texts, seqs: messages.map(({ seq }) => seq), refused, kept };
}

/** What the page's diary makes of an inbox and of the server's list, whichever comes first and wherever the device
 *  begins: always the same. Runs inside the page; gives the cases that are not so. */
async function foldInAnyOrder() {
  const { Diary } = await import("/diary.js");
  const me = "42";
  const counts = new Map();
  const said = (conversation, seq, sender, body) => {
    const ordinal = (counts.get(conversation) ?? 0) + (body.text === undefined ? 0 : 1);
    counts.set(conversation, ordinal);
    const message = { conversation, seq: String(seq), messageId: `${conversation} ${seq}`, sender, clientId: `${seq}` };
    return { message: { ...message, timeMs: String(seq), body, ordinal: String(ordinal) } };
  };
  const read = (conversation, upTo, ordinal) => ({
    read: { conversation, upTo: String(upTo), ordinal: String(ordinal) },
  });
  const entries = [
    said("42:43", 1, "43", { text: "one" }),
    said("42:43", 2, "43", { text: "two" }),
    read("42:43", 1, 1),
    said("42:43", 3, me, { text: "three" }),
    said("42:43", 4, "43", { text: "four" }),
    said("42:43", 5, "43", { edited: { seq: "4", content: { text: "FOUR" } } }),
    said("g7", 1, "43", { groupCreated: { title: "Roof", members: [me, "44"], openHistory: false } }),
    said("g7", 2, "44", { text: "hello" }),
    said("g7", 3, "43", { renamed: { title: "Cellar" } }),
    said("g7", 4, "43", { roleSet: { user: me, role: "ADMIN" } }),
    said("g7", 5, "44", { text: "again" }),
    said("g7", 6, "43", { memberRemoved: { user: me } }),
    said("g7", 9, "43", { membersAdded: { users: [me], title: "Attic" } }),
    said("g7", 10, "44", { text: "welcome" }),
    said("42:43", 6, "43", { deleted: { seq: "4" } }),
    said("g7", 11, me, { text: "thanks" }),
    said("g7", 12, "44", { text: "bye" }),
    read("g7", 12, 5),
    said("g7", 13, "44", { text: "really" }),
  ];
  const after = (begin, rev, part) => {
    const diary = new Diary(me, "fold");
    for (let at = begin; at <= entries.length; at += 1) {
      if (at === part?.at) diary.takeList(part.list, new Set());
      if (at < entries.length) diary.take(String(at + 1), entries[at]);
    }
    return diary;
  };
  const shown = (diary) =>
    JSON.stringify(
      diary
        .keys()
        .toSorted()
        .map((key) => {
          const { ordinal, seen, read, title, role, gone, last } = diary.conversations.get(key);
          return [key, ordinal - seen, read, title, role, gone, last?.seq, last?.change, last?.body];
        }),
    );
  const whole = shown(after(0));
  const wrong = [];
  for (let rev = 0; rev <= entries.length; rev += 1) {
    // The list at this `rev`, as the server would give it: made of the inbox up to there.
    const diary = new Diary(me, "fold");
    for (let at = 0; at < rev; at += 1) diary.take(String(at + 1), entries[at]);
    const conversations = diary.keys().map((key) => {
      const { ordinal, seen, read, title, role, gone, last } = diary.conversations.get(key);
      const name = key.startsWith("g") ? key : "42:43";
      const message = last && {
        ...{ conversation: name, seq: String(last.seq), messageId: last.id, sender: last.from, clientId: "" },
        ...{ timeMs: String(last.time), body: last.body, ordinal: String(ordinal) },
        ...(last.changedBy && { changedBy: String(last.changedBy) }),
      };
      const state = { conversation: name, unread: String(ordinal - seen), read: String(read), title, role, gone };
      return { ...state, messages: message ? [message] : [] };
    });
    const list = { conversations, rev: String(rev), end: true };
    for (let begin = 0; begin <= rev; begin += 1) {
      for (let at = begin; at <= entries.length; at += 1) {
        const result = shown(after(begin, rev, { list, at }));
        if (result !== whole) wrong.push({ rev, begin, at, result, whole });
      }
    }
  }
  return wrong;
}

async function main(browser) {
  const complaints = [];
  let { server, address } = await serve("127.0.0.1:0");
  try {
    const url = `http://${address}/`;
    const desk = await browser.newContext({ viewport: { width: 1100, height: 720 }, deviceScaleFactor: 2 });
    const pocket = await browser.newContext(PHONE);
    let ana = await openTab(desk, url, complaints);
    const ben = await openTab(pocket, url, complaints);
    await comeIn(ana, "Ana");
    await comeIn(ben, "Ben");

    // To and fro.
    await ana.fill("#with", "Ben");
    await ana.press("#with", "Enter");
    await ana.locator("#title", { hasText: "Ben" }).waitFor();
    await say(ana, "Are you coming tonight?");
    await sees(ana, "Are you coming tonight?");
    await ben.locator("#conversations button", { hasText: "Are you coming tonight?" }).click();
    await sees(ben, "Are you coming tonight?");
    // He has it open, and she sees that.
    await ana.locator("li.message[data-ticks=read]", { hasText: "Are you coming tonight?" }).waitFor();
    await say(ben, "Sure <3 I bring olives & café crème");
    await sees(ana, "Sure <3 I bring olives & café crème");

    // She sees that he is there, that he looks at something else for a while, and that he is back.
    const presence = (words) => ana.locator("#presence", { hasText: words }).waitFor();
    const turn = (state) =>
      ben.evaluate((value) => {
        Object.defineProperty(document, "visibilityState", { value, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
      }, state);
    await presence("online");
    await turn("hidden");
    await presence("away");
    await turn("visible");
    await presence("online");
    await ana.locator("#conversations .avatar.online").waitFor();

    // While she writes, he sees that; not any more when she has deleted it, or sent it.
    const writing = ben.locator("#typing", { hasText: "writing…" });
    const nobody = ben.locator("#typing:empty");
    await ana.fill("#text", "Per");
    await writing.waitFor();
    await ben.screenshot({ path: join(directory, "typing-phone.png") });
    await ana.fill("#text", "");
    await nobody.waitFor({ state: "attached" });
    await ana.fill("#text", "Perfect");
    await writing.waitFor();
    await ana.press("#text", "Enter");
    await sees(ben, "Perfect");
    await nobody.waitFor({ state: "attached" });

    // A polite stop; what is written meanwhile waits, and arrives once.
    assert.equal(await end(server, "SIGTERM"), 0, "a drained server ends with 0");
    await Promise.all([disconnected(ana), disconnected(ben)]);
    await Promise.all([ana.locator("#trouble").waitFor(), ben.locator("#trouble").waitFor()]);
    await say(ana, "Written while the server was away");
    await ana.locator("li.message[data-state=sending] .body", { hasText: "Written while" }).waitFor();
    ({ server } = await serve(address));
    await Promise.all([connected(ana), connected(ben)]);
    await sees(ana, "Written while the server was away");
    await sees(ben, "Written while the server was away");

    // No farewell at all.
    await end(server, "SIGKILL");
    await Promise.all([disconnected(ana), disconnected(ben)]);
    ({ server } = await serve(address));
    await Promise.all([connected(ana), connected(ben)]);
    await say(ben, "Still here after kill -9");
    const expected = [
      "Are you coming tonight?",
      "Sure <3 I bring olives & café crème",
      "Perfect",
      "Written while the server was away",
      "Still here after kill -9",
    ];
    assert.deepEqual(await sees(ana, expected[4]), expected);
    assert.deepEqual(await sees(ben, expected[4]), expected);

    // What Ana changes on another device changes here, and what she takes back is gone.
    const conversation = `@${await ana.evaluate(() => location.hash.slice(1))}`;
    await ask(address, "Ana", [
      { edit: { clientId: "edit", conversation, seq: "1", content: { text: "Are you coming tomorrow?" } } },
      { delete: { clientId: "delete", conversation, seq: "4" } },
    ]);
    expected[0] = "Are you coming tomorrow?";
    expected[3] = "Message deleted";
    for (const page of [ana, ben]) {
      await page.locator("li.message.deleted").waitFor();
      assert.deepEqual(await sees(page, expected[0]), expected);
    }

    // Reloaded, the tab has everything; so has a device that has never been there.
    await ana.reload();
    await connected(ana);
    assert.deepEqual(await sees(ana, expected[4]), expected);
    const other = await browser.newContext();
    const laptop = await openTab(other, url, complaints);
    await comeIn(laptop, "Ben");
    // What he has read on his phone is not new on his laptop.
    await ana.locator("li.message.deleted[data-ticks=read]").waitFor();
    await laptop.locator("#conversations button").first().waitFor();
    await laptop.locator("#conversations .unread").waitFor({ state: "detached" });
    await laptop.locator("#conversations button").first().click();
    assert.deepEqual(await sees(laptop, expected[4]), expected);

    assert.deepEqual((await laptop.evaluate(foldInAnyOrder)).slice(0, 3), []);

    // What the page stands on also stands by itself.
    assert.deepEqual(await laptop.evaluate(useLibrary, "Ben"), {
      texts: ["groupCreated", "one", "two"],
      seqs: ["1", "2", "3"],
      refused: "unknown_message",
      kept: { cursor: "3", outbox: [] },
    });

    // What was written in a tab that was closed while the server was away is sent by the next one.
    await end(server, "SIGKILL");
    await disconnected(ana);
    expected.push("Written, and the tab closed");
    await say(ana, expected[5]);
    await ana.locator("li.message[data-state=sending] .body", { hasText: expected[5] }).waitFor();
    await ana.close();
    ({ server } = await serve(address));
    ana = await openTab(desk, url, complaints);
    await comeIn(ana, "Ana");
    await ana.locator("#conversations button", { hasText: "Ben" }).click();
    assert.deepEqual(await sees(ana, expected[5]), expected);
    await connected(ben);
    assert.deepEqual(await sees(ben, expected[5]), expected);

    await fits(ben);
    await ana.screenshot({ path: join(directory, "chat-desktop.png") });
    await ben.screenshot({ path: join(directory, "chat-phone.png") });
    assert.deepEqual(complaints, []);
    assert.equal(await end(server, "SIGTERM"), 0);
  } finally {
    // What a page has complained of may be why something else has not come.
    for (const complaint of complaints) console.error(complaint);
    server.kill("SIGKILL");
  }
}

await inBrowser(directory, main);
console.log("the page sends, receives, survives a polite stop and a kill, and fits a phone; its library stands alone");
