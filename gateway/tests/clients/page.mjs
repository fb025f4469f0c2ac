// The page in a real browser: two people chat, the server is stopped politely, killed, and comes back.
//
//   node page.mjs HOLDFAST DIRECTORY
//
// HOLDFAST is the server's binary; data and screenshots go into DIRECTORY. The browser is $CHROMIUM, or chromium in
// /usr/bin. Nothing here waits for time to pass: each step waits for what it needs to see, or fails.

import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { chromium } from "playwright-core";
import WebSocket from "ws";

const [holdfast, directory] = process.argv.slice(2);
const PATIENCE_MS = 30_000;
const SERVER_AWAY = /ERR_CONNECTION_(REFUSED|RESET|CLOSED)|WebSocket connection to .* failed/;

/** A server with this data; resolves when it says where it listens. */
async function serve(listen, ...flags) {
  const data = join(directory, "data");
  const server = spawn(holdfast, ["serve", "--listen", listen, "--data", data, ...flags], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  for await (const line of createInterface({ input: server.stdout })) {
    const found = line.match(/http:\/\/([0-9.:]+)\//);
    if (found) {
      server.stdout.resume();
      return { server, address: found[1] };
    }
  }
  throw new Error(`the server ended before it listened, with ${server.exitCode}`);
}

async function end(server, signal) {
  const ended = once(server, "exit");
  server.kill(signal);
  return (await ended)[0];
}

/** A tab whose every complaint is kept, except that the server is away when we have sent it away. */
async function openTab(context, url, complaints) {
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => {
    if (message.type() === "error" && !SERVER_AWAY.test(message.text())) complaints.push(message.text());
  });
  await page.goto(url);
  return page;
}

async function comeIn(page, name) {
  await page.fill("#name", name);
  await page.click("#login-form [type=submit]");
  await connected(page);
}

// Attached, not visible: on a phone an open conversation covers it.
const status = (page, text) => page.locator("#status", { hasText: text }).waitFor({ state: "attached" });
const connected = (page) => status(page, /^Connected$/);
const disconnected = (page) => status(page, /^(Reconnecting|Offline)/);

async function say(page, text) {
  await page.fill("#text", text);
  await page.press("#text", "Enter");
}

/** Waits until the open conversation shows this text once and delivered, and gives all texts from top to bottom. */
async function sees(page, text) {
  const message = page.locator("li.message[data-state=delivered] .body").getByText(text, { exact: true });
  await message.first().waitFor();
  assert.equal(await message.count(), 1, `${text} is there more than once`);
  return page.locator("li.message .body").allTextContents();
}

/** Sends requests as another device of a user, until all are accepted. */
async function ask(address, user, requests) {
  const data = join(directory, "data");
  const { stdout } = await promisify(execFile)(holdfast, ["token", "--user", user, "--device", "elsewhere", "--data", data]);
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

async function main(browser) {
  const complaints = [];
  let { server, address } = await serve("127.0.0.1:0");
  try {
    const url = `http://${address}/`;
    const desk = await browser.newContext({ viewport: { width: 1100, height: 720 }, deviceScaleFactor: 2 });
    const pocket = await browser.newContext({ viewport: { width: 390, height: 780 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true });
    let ana = await openTab(desk, url, complaints);
    const ben = await openTab(pocket, url, complaints);
    await comeIn(ana, "Ana");
    await comeIn(ben, "Ben");

    // To and fro.
    await ana.fill("#with", "Ben");
    await ana.press("#with", "Enter");
    await ana.locator("#other-name", { hasText: "Ben" }).waitFor();
    await say(ana, "Are you coming tonight?");
    await sees(ana, "Are you coming tonight?");
    await ben.locator("#conversations button", { hasText: "Are you coming tonight?" }).click();
    await sees(ben, "Are you coming tonight?");
    // He has it open, and she sees that.
    await ana.locator("li.message.mine.read", { hasText: "Are you coming tonight?" }).waitFor();
    await ben.fill("#text", "Sure <3 I bring olives & café crème");
    await ben.click("#send");
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
    await ben.fill("#text", "Still here after kill -9");
    await ben.click("#send");
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
    expected[3] = "Deleted";
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
    await ana.locator("li.message.mine.read.deleted").waitFor();
    await laptop.locator("#conversations button").first().waitFor();
    await laptop.locator("#conversations .unread").waitFor({ state: "detached" });
    await laptop.locator("#conversations button").first().click();
    assert.deepEqual(await sees(laptop, expected[4]), expected);

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

    // Nothing sticks out on a phone.
    const overflow = await ben.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.equal(overflow, 0, "the page is wider than the phone");
    await ana.screenshot({ path: join(directory, "chat-desktop.png") });
    await ben.screenshot({ path: join(directory, "chat-phone.png") });
    assert.deepEqual(complaints, []);
    assert.equal(await end(server, "SIGTERM"), 0);
  } finally {
    server.kill("SIGKILL");
  }
}

await rm(join(directory, "data"), { recursive: true, force: true });
await mkdir(directory, { recursive: true });
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  // Chromium's own sandbox refuses to run as root.
  chromiumSandbox: process.getuid() !== 0,
});
try {
  await main(browser);
  console.log("the page sends, receives, survives a polite stop and a kill, and fits a phone; its library stands alone");
} finally {
  await browser.close();
}
