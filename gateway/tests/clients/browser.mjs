// A server of its own, and people who use its page in a real browser.
//
// Nothing here waits for time to pass: each step waits for what it needs to see, or fails.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

export const PATIENCE_MS = 30_000;
export const PHONE = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
export const DESK = { viewport: { width: 1280, height: 800 } };
const SERVER_AWAY = /ERR_(CONNECTION_(REFUSED|RESET|CLOSED)|INTERNET_DISCONNECTED)|WebSocket connection to .* failed/;

/** Runs `main(browser)` with an empty data directory in `directory`. The browser is $CHROMIUM, or that in /usr/bin. */
export async function inBrowser(directory, main) {
  await rm(join(directory, "data"), { recursive: true, force: true });
  await mkdir(directory, { recursive: true });
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    // Chromium's own sandbox refuses to run as root.
    chromiumSandbox: process.getuid() !== 0,
  });
  try {
    await main(browser);
  } finally {
    await browser.close();
  }
}

/** A server with the data in `directory`; resolves when it says where it listens. */
export async function serve(holdfast, directory, listen, ...flags) {
  const server = spawn(holdfast, ["serve", "--listen", listen, "--data", join(directory, "data"), ...flags], {
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

/** Its exit code. */
export async function end(server, signal) {
  const ended = once(server, "exit");
  server.kill(signal);
  return (await ended)[0];
}

/** A tab whose every complaint is kept, except that the server is away when we have sent it away, and that it does not
 *  know the names of guests who came before it was started. */
export async function openTab(context, url, complaints) {
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => {
    const isExpected = SERVER_AWAY.test(message.text()) || message.location().url.includes("/v1/guest?user=");
    if (message.type() === "error" && !isExpected) complaints.push(message.text());
  });
  await page.goto(url);
  return page;
}

export async function comeIn(page, name) {
  await page.fill("#name", name);
  await page.click("#login-form [type=submit]");
  await connected(page);
}

// Attached, not visible: on a phone an open conversation covers it.
const status = (page, text) => page.locator("#status", { hasText: text }).waitFor({ state: "attached" });
export const connected = (page) => status(page, /^Connected$/);
export const disconnected = (page) => status(page, /^(Reconnecting|Offline)/);

export async function say(page, text) {
  await page.fill("#text", text);
  if (await page.evaluate(() => matchMedia("(pointer: coarse)").matches)) await page.click("#send");
  else await page.press("#text", "Enter");
}

/** Waits until the open conversation shows this text once and delivered, and gives all texts from top to bottom. */
export async function sees(page, text) {
  const message = page.locator("li.message[data-state=delivered] .body").getByText(text, { exact: true });
  await message.first().waitFor();
  assert.equal(await message.count(), 1, `${text} is there more than once`);
  return texts(page);
}

export const texts = (page) => page.locator("li.message .body").allTextContents();

/** Nothing sticks out on a phone. */
export async function fits(page) {
  const overflow = await page.evaluate(
    () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
  );
  assert.equal(overflow, 0, "the page is wider than the screen");
}

export const entry = (page, title) =>
  page.locator("#conversations button", { has: page.locator(".name", { hasText: title }) });
export const unread = (page, title) => entry(page, title).locator(".unread");
export const message = (page, text) =>
  page.locator("li.message", { has: page.locator(".body").getByText(text, { exact: true }) });

/** Opens a conversation from the list. */
export async function open(page, title) {
  await entry(page, title).click();
  await page.locator("#title", { hasText: title }).waitFor();
}

/** All of them show the same texts, once each and in this order, and nothing that is on its way. */
export async function agree(pages, expected) {
  for (const page of pages) {
    const isSo = (all) => {
      const shown = [...document.querySelectorAll("li.message[data-state=delivered] .body")].map(
        ({ textContent }) => textContent,
      );
      return (
        JSON.stringify(shown) === JSON.stringify(all) && document.querySelectorAll("li.message").length === all.length
      );
    };
    // If it never is, the assertion shows what was there instead.
    await page.waitForFunction(isSo, expected).catch(() => {});
    assert.deepEqual(await texts(page), expected);
  }
}

export const shoot = (page, directory, name) =>
  page.screenshot({ path: join(directory, `${name}.png`), animations: "disabled", caret: "initial" });
