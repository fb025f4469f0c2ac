// The page in a real browser: Ana has a phone, a laptop and later a spare one. She counts Ben among her contacts,
// blocks him and takes that back; says who sees that she is there; and shuts a device out. Ben sees how far his
// messages come.
//
//   node page_people.mjs HOLDFAST DIRECTORY
//
// HOLDFAST is the server's binary; data and screenshots go into DIRECTORY.

import assert from "node:assert/strict";
import {
  agree,
  comeIn,
  connected,
  DESK,
  end,
  entry,
  fits,
  inBrowser,
  message,
  open,
  openTab,
  PHONE,
  say,
  sees,
  serve as start,
  shoot,
  unread,
} from "./browser.mjs";

const [holdfast, directory] = process.argv.slice(2);
const serve = (listen) => start(holdfast, directory, listen, "--set", "limits.presence_grace=100ms");
const shot = (page, name) => shoot(page, directory, name);

// What people do.

/** Begins a conversation with somebody who may never have been there. */
async function begin(page, name) {
  await page.fill("#with", name);
  await page.press("#with", "Enter");
  await page.locator("#title", { hasText: name }).waitFor();
}

/** Chooses from the menu at the head of the open conversation. */
async function choose(page, item) {
  await page.click("#person");
  await page.locator("#menu").getByRole("menuitem", { name: item, exact: true }).click();
}

async function openSettings(page) {
  await page.click("#settings-open");
  await page.locator("#privacy input:enabled:checked").waitFor();
  await page.locator("#devices-rest").waitFor({ state: "hidden" });
}

const audience = (page, label) => page.locator("#privacy").getByLabel(label, { exact: true });
/** It is chosen, on whatever device. */
const chosen = (page, value) =>
  page.waitForFunction((is) => document.querySelector("#privacy input:checked")?.value === is, value);
const device = (page, name) => page.locator("#devices .member", { hasText: name });
const nameOfDevice = (page) =>
  page.evaluate(() => import("/page.js").then(({ page: { link } }) => link.identity.device));

// What they see.

const ticks = (page, text, how) => message(page, text).and(page.locator(`[data-ticks=${how}]`)).waitFor();
const presence = (page, words) => page.locator("#presence", { hasText: words }).waitFor();
/** Of somebody who is hidden there is nothing to be seen. */
const noPresence = (page) => page.locator("#presence:empty").waitFor({ state: "attached" });

/** The open conversation is with somebody whom one blocks. */
async function saysBlocked(page, name) {
  await page.locator("#blocked-text", { hasText: `You have blocked ${name}.` }).waitFor();
  await presence(page, /^blocked$/);
  assert.equal(await page.locator("#composer").isVisible(), false, "there is nothing to be written");
}

const saysNothingBlocked = async (page) => {
  await page.locator("#composer").waitFor();
  await page.locator("#blocked-text").waitFor({ state: "hidden" });
};

async function main(browser) {
  const complaints = [];
  const { server, address } = await serve("127.0.0.1:0");
  const url = `http://${address}/`;
  const tab = async (options) => {
    const context = await browser.newContext({ locale: "en-GB", ...options });
    return openTab(context, url, complaints);
  };
  try {
    const ben = await tab(DESK);
    const cleo = await tab({ ...DESK, colorScheme: "dark" });
    const phone = await tab(PHONE);
    const laptop = await tab({ ...DESK, deviceScaleFactor: 1.5 });

    // One tick: it is on the server. Two: at everybody else, though nobody has looked. Two that shine: read.
    await Promise.all([comeIn(ben, "Ben"), comeIn(cleo, "Cleo")]);
    await begin(ben, "Ana");
    await say(ben, "Do you still have my drill?");
    await sees(ben, "Do you still have my drill?");
    await ticks(ben, "Do you still have my drill?", "sent");
    await shot(ben, "sent-desktop");
    await Promise.all([comeIn(phone, "Ana"), comeIn(laptop, "Ana")]);
    await unread(phone, "Ben").waitFor();
    await ticks(ben, "Do you still have my drill?", "arrived");
    await shot(ben, "arrived-desktop");
    await open(phone, "Ben");
    await ticks(ben, "Do you still have my drill?", "read");
    await open(laptop, "Ben");
    await say(laptop, "It is in the cellar, behind the bicycles");
    const expected = ["Do you still have my drill?", "It is in the cellar, behind the bicycles"];
    await agree([ben, phone, laptop], expected);

    // In a group it counts when the last one has it.
    await laptop.click("#new-group-open");
    await laptop.fill("#new-title", "House");
    for (const name of ["Ben", "Cleo"]) {
      await laptop.fill("#new-member", name);
      await laptop.press("#new-member", "Enter");
      await laptop.locator("#chosen", { hasText: name }).waitFor();
    }
    await laptop.click("#new-group-make");
    await laptop.locator("#title", { hasText: "House" }).waitFor();
    await say(laptop, "The chimney sweep comes on Monday");
    await ticks(laptop, "The chimney sweep comes on Monday", "arrived");
    await open(cleo, "House");
    await message(laptop, "The chimney sweep comes on Monday").locator(".readers", { hasText: "read by 1" }).waitFor();
    await ticks(laptop, "The chimney sweep comes on Monday", "arrived");
    await open(ben, "House");
    await ticks(laptop, "The chimney sweep comes on Monday", "read");
    await open(ben, "Ana");
    await open(laptop, "Ben");

    // A contact, made on the phone, is one on the laptop too, at once.
    await openSettings(laptop);
    assert.equal(await laptop.locator("#contacts .member").count(), 0);
    await choose(phone, "Add to contacts");
    await laptop.locator("#contacts .member", { hasText: "Ben" }).waitFor();
    await laptop.locator("#settings .close").click();

    // The menu by the keyboard.
    await laptop.focus("#person");
    await laptop.keyboard.press("Enter");
    const focused = laptop.locator("#menu :focus");
    await focused.filter({ hasText: "Remove from contacts" }).waitFor();
    await laptop.keyboard.press("ArrowDown");
    await focused.filter({ hasText: "Block" }).waitFor();
    await laptop.keyboard.press("Escape");
    await laptop.locator("#person:focus").waitFor();

    // Blocked on the phone, after it was said what that does: on the laptop too.
    await presence(ben, "online");
    await choose(phone, "Block");
    await phone.locator("#confirm-detail", { hasText: "Ben is not told." }).waitFor();
    await shot(phone, "block-phone");
    await phone.click("#confirm .close");
    await phone.locator("#composer").waitFor();
    await choose(phone, "Block");
    await phone.click("#confirm-yes");
    await Promise.all([saysBlocked(phone, "Ben"), saysBlocked(laptop, "Ben")]);
    await shot(phone, "blocked-phone");
    await shot(laptop, "blocked-desktop");
    await noPresence(ben);

    // Who is blocked cannot tell: what he writes is accepted, and comes to nobody.
    await say(ben, "And my ladder?");
    expected.push("And my ladder?");
    await agree([ben], expected);
    await ticks(ben, "And my ladder?", "sent");
    // In the group they go on hearing each other; so that much later it has not come to her.
    await open(ben, "House");
    await say(ben, "I let him in");
    for (const page of [laptop, phone, cleo])
      await entry(page, "House").locator(".last", { hasText: "I let him in" }).waitFor({ state: "attached" });
    await open(ben, "Ana");
    const heard = expected.slice(0, 2);
    await agree([phone, laptop], heard);
    const spare = await tab({ ...PHONE, colorScheme: "dark" });
    await comeIn(spare, "Ana");
    assert.equal(await unread(spare, "Ben").count(), 0);
    await open(spare, "Ben");
    await agree([spare], heard);
    await saysBlocked(spare, "Ben");
    await ticks(ben, "And my ladder?", "sent");

    // Taken back on the laptop: all of her devices write again, and hear what comes from there on.
    await openSettings(laptop);
    await laptop.locator("#blocked .member", { hasText: "Ben" }).waitFor();
    await spare.click("#back");
    await openSettings(spare);
    await shot(spare, "settings-phone-dark");
    await spare.locator("#settings .close").click();
    await open(spare, "Ben");
    await laptop.getByRole("button", { name: "Unblock Ben" }).click();
    await laptop.locator("#blocked .member").waitFor({ state: "detached" });
    await laptop.locator("#settings .close").click();
    await Promise.all([phone, laptop, spare].map(saysNothingBlocked));
    await presence(ben, "online");
    await phone.click("#back");
    await open(laptop, "House");
    await spare.click("#back");
    await say(ben, "The key is under the mat");
    await unread(phone, "Ben")
      .filter({ hasText: /^1 unread$/ })
      .waitFor();
    await Promise.all([phone, laptop, spare].map((page) => open(page, "Ben")));
    heard.push("The key is under the mat");
    await agree([phone, laptop, spare], heard);
    await ticks(ben, "The key is under the mat", "read");
    await say(phone, "Found it");
    heard.push("Found it");
    await agree([phone, laptop, spare], heard);

    // Who may see that she is there, said on the phone.
    await begin(cleo, "Ana");
    await presence(cleo, "online");
    await openSettings(laptop);
    await phone.click("#back");
    await openSettings(phone);
    await audience(phone, "Nobody").check();
    await chosen(laptop, "nobody");
    await Promise.all([noPresence(ben), noPresence(cleo)]);
    await audience(phone, "Contacts").check();
    await chosen(laptop, "contacts");
    await presence(ben, "online");
    await noPresence(cleo);
    await shot(phone, "settings-phone");
    await shot(laptop, "settings-desktop");
    await audience(phone, "Everyone").check();
    await presence(cleo, "online");
    await chosen(laptop, "everyone");
    await phone.locator("#settings .close").click();

    // The phone is lost: shut out from the laptop, it says so, and goes no further.
    const lost = await nameOfDevice(phone);
    await device(laptop, await nameOfDevice(laptop)).getByText("This one").waitFor();
    await device(laptop, lost).getByText("online").waitFor();
    await laptop.getByRole("button", { name: `Shut out ${lost}` }).click();
    await shot(laptop, "shut-out-desktop");
    await laptop.click("#confirm-yes");
    await device(laptop, lost).waitFor({ state: "detached" });
    await laptop.locator("#settings-close:focus").waitFor();
    await laptop.locator("#settings .close").click();
    await phone.locator("#trouble-text", { hasText: "This device was shut out from another one." }).waitFor();
    await shot(phone, "shut-out-phone");
    // A token of the very second in which it was shut out is worth nothing either.
    const shutOut = phone.locator("#trouble-retry", { hasText: "Sign in anew" });
    do {
      await shutOut.click();
      await phone.fill("#name", "Ana");
      await phone.click("#login-form [type=submit]");
      await phone.locator("#status", { hasText: /^(Connected|Not connected)$/ }).waitFor({ state: "attached" });
    } while (await shutOut.isVisible());
    await connected(phone);
    await open(phone, "Ben");
    await say(phone, "Found the phone, too");
    heard.push("Found the phone, too");
    await agree([phone, laptop, spare], heard);
    await openSettings(laptop);
    await device(laptop, lost).getByText("online").waitFor();

    // And a contact no more.
    await laptop.getByRole("button", { name: "Remove Ben" }).click();
    await laptop.locator("#contacts .member").waitFor({ state: "detached" });

    await Promise.all([phone, spare].map(fits));
    assert.deepEqual(complaints, []);
    assert.equal(await end(server, "SIGTERM"), 0);
  } finally {
    // What a page has complained of may be why something else has not come.
    for (const complaint of complaints) console.error(complaint);
    server.kill("SIGKILL");
  }
}

await inBrowser(directory, main);
console.log("contacts, a block and its end, who sees presence, a device shut out and back, and ticks");
