// The page in a real browser: Ana has two phones and a laptop, and a group with three others. They write, answer,
// change and take back; see who has read, who writes and who is there; one is offline, the server is killed, and a
// device comes that has never been there.
//
//   node page_group.mjs HOLDFAST DIRECTORY
//
// HOLDFAST is the server's binary; data and screenshots go into DIRECTORY.

import assert from "node:assert/strict";
import {
  agree,
  comeIn,
  connected,
  DESK,
  disconnected,
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
/** A device that is so many entries behind gets a snapshot. */
const SNAPSHOT_AFTER = 60;
const TITLE = "Roof garden";

const serve = (listen) =>
  start(
    holdfast,
    directory,
    listen,
    "--set",
    `limits.snapshot_after=${SNAPSHOT_AFTER}`,
    "--set",
    "limits.presence_grace=100ms",
  );
const shot = (page, name) => shoot(page, directory, name);

// What people do.

/** Chooses from a message's menu, as somebody with a mouse or a finger. */
async function choose(page, text, item) {
  const row = message(page, text);
  if (await page.evaluate(() => matchMedia("(pointer: coarse)").matches)) await row.locator(".bubble .body").tap();
  else {
    await row.hover();
    await row.locator(".more").click();
  }
  await page.locator("#menu").getByRole("menuitem", { name: item, exact: true }).click();
}

async function menuOf(page, text) {
  await message(page, text).hover();
  await message(page, text).locator(".more").click();
  const items = await page.locator("#menu").getByRole("menuitem").allTextContents();
  await page.keyboard.press("Escape");
  await page.locator("#menu").waitFor({ state: "hidden" });
  return items;
}

const event = (page, text) => page.locator("li.event", { hasText: text }).waitFor();

/** The page's list says what the server's says, once all entries up to there have come. */
async function listsAgree(pages) {
  const both = () =>
    import("/page.js").then(async ({ page: { link } }) => {
      const { diary, client } = link;
      for (;;) {
        const { conversations, rev } = await client.conversations({ limit: 200 });
        // Otherwise something came meanwhile: as it is now is to be compared.
        if (rev !== diary.cursor) continue;
        const server = conversations.map(({ conversation, unread, read, title, role, gone, messages }) => {
          return [
            diary.keyOf(conversation),
            Number(unread),
            Number(read),
            title,
            role,
            gone,
            messages.at(-1)?.messageId,
          ];
        });
        const own = server.map(([key]) => {
          const { ordinal, seen, read, title, role, gone, last } = diary.conversations.get(key);
          return [key, ordinal - seen, read, title, role, gone, last?.id];
        });
        return { server, own };
      }
    });
  for (const page of pages) {
    const { server, own } = await page.evaluate(both);
    assert.deepEqual(own, server);
  }
}

async function main(browser) {
  const complaints = [];
  let { server, address } = await serve("127.0.0.1:0");
  const url = `http://${address}/`;
  const device = async (options) => {
    const context = await browser.newContext({ locale: "en-GB", ...options });
    return { context, page: await openTab(context, url, complaints) };
  };
  try {
    const laptop = (await device({ ...DESK, deviceScaleFactor: 1.5 })).page;
    const { context: phoneContext, page: phone } = await device(PHONE);
    const spare = (await device({ ...PHONE, colorScheme: "dark" })).page;
    const ben = (await device({ ...DESK, deviceScaleFactor: 1.5, colorScheme: "dark" })).page;
    const cleo = (await device(PHONE)).page;
    const { page: dan } = await device(DESK);
    await shot(phone, "login-phone");
    await Promise.all([comeIn(laptop, "Ana"), comeIn(phone, "Ana"), comeIn(spare, "Ana")]);
    await Promise.all([comeIn(ben, "Ben"), comeIn(cleo, "Cleo"), comeIn(dan, "Dan")]);
    await shot(laptop, "empty-desktop");
    await shot(phone, "empty-phone");

    // A group, made on the laptop, is on all devices of all of its members.
    await laptop.click("#new-group-open");
    await laptop.fill("#new-title", TITLE);
    for (const name of ["Ben", "Cleo", "Dan"]) {
      await laptop.fill("#new-member", name);
      await laptop.press("#new-member", "Enter");
      await laptop.locator("#chosen", { hasText: name }).waitFor();
    }
    await shot(laptop, "new-group-desktop");
    await laptop.click("#new-group-make");
    await laptop.locator("#title", { hasText: TITLE }).waitFor();
    await laptop.locator("#presence", { hasText: "4 members, 3 online" }).waitFor();
    // In the order of their ids.
    await event(laptop, /^You made the group “Roof garden” with (\w+), (\w+) and (\w+)$/);
    await Promise.all([ben, cleo, dan].map((page) => open(page, TITLE)));
    await event(ben, /^Ana made the group “Roof garden” with .*you/);
    await Promise.all([phone, spare].map((page) => entry(page, TITLE).waitFor()));

    // What one says, all hear; who has it open has read it, and she sees who.
    await say(laptop, "The tomatoes arrive on Saturday. Who can be there at nine?");
    for (const page of [ben, cleo, dan]) await sees(page, "The tomatoes arrive on Saturday. Who can be there at nine?");
    await laptop.locator("li.message[data-ticks=read]").waitFor();
    await laptop.locator(".readers", { hasText: "read by all" }).click();
    await laptop.waitForFunction(() => document.querySelectorAll('#readers-list [data-how="Read"]').length === 3);
    await shot(laptop, "readers-desktop");
    await laptop.keyboard.press("Escape");
    await laptop.locator("#readers").waitFor({ state: "hidden" });

    // Answers show what they answer, on a phone too.
    await choose(ben, "The tomatoes arrive on Saturday. Who can be there at nine?", "Answer");
    await ben.locator("#context-what", { hasText: "Answer Ana" }).waitFor();
    await say(ben, "I can, and I bring the ladder");
    for (const page of [laptop, cleo, dan]) {
      await sees(page, "I can, and I bring the ladder");
      await message(page, "I can, and I bring the ladder")
        .locator(".quote", { hasText: "The tomatoes arrive" })
        .waitFor();
    }
    await choose(cleo, "I can, and I bring the ladder", "Answer");
    await say(cleo, "Take the long one, the short one is broken");
    await sees(laptop, "Take the long one, the short one is broken");

    // Escape leaves things as they were; Enter does not.
    await say(dan, "I am away until Sundy");
    await sees(dan, "I am away until Sundy");
    await dan.press("#text", "ArrowUp");
    assert.equal(await dan.inputValue("#text"), "I am away until Sundy");
    await dan.press("#text", "Escape");
    assert.equal(await dan.inputValue("#text"), "");
    await dan.press("#text", "ArrowUp");
    await dan.fill("#text", "I am away until Sunday");
    await dan.press("#text", "Enter");
    for (const page of [dan, laptop, ben, cleo]) {
      await sees(page, "I am away until Sunday");
      await message(page, "I am away until Sunday").locator(".foot", { hasText: "edited" }).waitFor();
    }

    // A member takes back what is his own, and only that; an owner anything.
    assert.deepEqual(await menuOf(dan, "I am away until Sunday"), ["Answer", "Edit", "Who has read it", "Delete"]);
    assert.deepEqual(await menuOf(dan, "I can, and I bring the ladder"), ["Answer"]);
    assert.deepEqual(await menuOf(laptop, "I am away until Sunday"), ["Answer", "Delete"]);
    await say(dan, "<b>Wrong group</b>, sorry");
    await sees(laptop, "<b>Wrong group</b>, sorry");
    await choose(laptop, "<b>Wrong group</b>, sorry", "Delete");
    await laptop.click("#confirm-yes");
    const expected = [
      "The tomatoes arrive on Saturday. Who can be there at nine?",
      "I can, and I bring the ladder",
      "Take the long one, the short one is broken",
      "I am away until Sunday",
      "Message deleted",
    ];
    await agree([laptop, ben, cleo, dan], expected);

    // What the laptop has read is no news on the phones.
    await laptop.fill("#with", "Cleo");
    await laptop.press("#with", "Enter");
    await laptop.locator("#title", { hasText: "Cleo" }).waitFor();
    await say(laptop, "Is there any plum jam left?");
    for (const text of ["Saturday <3 & pizza afterwards?", "I can bring the dough"]) {
      await say(cleo, text);
      expected.push(text);
      await sees(ben, text);
    }
    for (const page of [laptop, phone, spare])
      await unread(page, TITLE)
        .filter({ hasText: /^2 unread$/ })
        .waitFor();
    await phone.waitForFunction(() => document.title === "(2) Holdfast");
    await listsAgree([phone]);
    await open(laptop, TITLE);
    for (const page of [laptop, phone, spare]) await unread(page, TITLE).waitFor({ state: "detached" });
    await phone.waitForFunction(() => document.title === "Holdfast");

    // Who writes, with names; who is there.
    await cleo.click("#back");
    await open(cleo, "Ana");
    await say(cleo, "One glass, and it is yours");
    await unread(laptop, "Cleo").waitFor();
    await cleo.click("#back");
    await open(cleo, TITLE);
    await say(laptop, "Then the wine is on me");
    expected.push("Then the wine is on me");
    await agree([laptop, ben, cleo, dan], expected);
    await message(laptop, "Then the wine is on me").locator(".readers", { hasText: "read by all" }).waitFor();
    await open(phone, TITLE);
    await agree([phone], expected);
    await ben.fill("#text", "A");
    await laptop.locator("#typing", { hasText: "Ben is writing…" }).waitFor();
    await cleo.fill("#text", "Hm");
    await Promise.all([
      ...[laptop, phone].map((page) => page.locator("#typing", { hasText: /^\w+ and \w+ are writing…$/ }).waitFor()),
      spare.locator("#conversations .writing").waitFor(),
    ]);
    await shot(laptop, "group-desktop");
    await shot(phone, "group-phone");
    await shot(spare, "list-phone-dark");
    await phone.click("#back");
    await shot(phone, "list-phone");
    // He goes on, she does not.
    await ben.fill("#text", "At");
    await cleo.fill("#text", "");
    await laptop.locator("#typing", { hasText: "Ben is writing…" }).waitFor();
    await say(ben, "At nine, then");
    expected.push("At nine, then");
    await agree([laptop, ben, cleo, dan], expected);
    await message(ben, "At nine, then").locator(".readers", { hasText: "read by all" }).waitFor();
    await shot(ben, "group-desktop-dark");
    await laptop.locator("#typing:empty").waitFor({ state: "attached" });
    await laptop.click("#about");
    const member = (name) => laptop.locator("#group-members .member", { hasText: name });
    await member("Dan").getByText("online").waitFor();
    await dan.close();
    await member("Dan").getByText("last seen").waitFor();
    await member("Ben").locator(".avatar.online").waitFor();

    // Roles: an admin may do what a member may not.
    await member("Ben").getByRole("combobox").selectOption("ADMIN");
    await event(ben, "Ana made you an admin");
    await shot(laptop, "members-desktop");
    await laptop.keyboard.press("Escape");
    await cleo.click("#about");
    await cleo.locator("#group-members .member", { hasText: "Ben" }).getByText("Admin").waitFor();
    assert.equal(await cleo.locator("#group-add").isVisible(), false, "a member adds nobody");
    assert.equal(await cleo.locator("#group-rename").isVisible(), false, "a member does not rename");
    await shot(cleo, "members-phone");
    await cleo.locator("#group .close").click();
    await ben.click("#about");
    await ben.fill("#add-member", "77");
    await ben.press("#add-member", "Enter");
    await ben
      .locator("#group-members .member", { hasText: "User 77" })
      .getByRole("button", { name: "Remove User 77" })
      .click();
    await ben.click("#confirm-yes");
    await ben.locator("#group-members .member", { hasText: "User 77" }).waitFor({ state: "detached" });
    await ben.click("#group-rename");
    await ben.fill("#rename", "Roof & garden");
    await ben.press("#rename", "Enter");
    await ben.locator("#group-title", { hasText: "Roof & garden" }).waitFor();
    await ben.locator("#group .close").click();
    await event(laptop, "Ben added User 77");
    await event(laptop, "Ben removed User 77");
    await event(laptop, "Ben renamed the group to “Roof & garden”");
    for (const page of [phone, spare]) await entry(page, "Roof & garden").waitFor();

    // A phone without a network: what it says waits, what it misses comes, once and in order.
    await open(phone, "Roof & garden");
    await agree([phone], expected);
    await phoneContext.setOffline(true);
    await disconnected(phone);
    await say(phone, "Written in the cellar");
    await phone.locator("li.message[data-state=sending]", { hasText: "Written in the cellar" }).waitFor();
    await say(ben, "The soil is here too");
    await say(cleo, "Forty bags of it!");
    await choose(cleo, "I can bring the dough", "Edit");
    await say(cleo, "I can bring the dough and the oven");
    await choose(cleo, "Saturday <3 & pizza afterwards?", "Delete");
    await cleo.click("#confirm-yes");
    expected.splice(5, 2, "Message deleted", "I can bring the dough and the oven");
    expected.push("The soil is here too", "Forty bags of it!");
    await agree([laptop, ben, cleo], expected);
    assert.equal(await message(phone, "Forty bags of it!").count(), 0, "the phone has no network");
    await phoneContext.setOffline(false);
    await connected(phone);
    expected.push("Written in the cellar");
    await agree([phone, laptop, ben, cleo], expected);

    // A killed server: what was written meanwhile is there afterwards, once.
    await end(server, "SIGKILL");
    await Promise.all([laptop, phone, spare, ben, cleo].map(disconnected));
    await say(laptop, "See you on Saturday, then");
    await laptop.locator("li.message[data-state=sending]", { hasText: "See you on Saturday, then" }).waitFor();
    ({ server } = await serve(address));
    await Promise.all([laptop, phone, spare, ben, cleo].map(connected));
    await sees(ben, "See you on Saturday, then");
    await say(ben, "At nine, with coffee");
    expected.push("See you on Saturday, then", "At nine, with coffee");
    await agree([phone, laptop, ben, cleo], expected);
    await laptop.locator(".readers", { hasText: "read by 2" }).waitFor();
    await listsAgree([phone, laptop, spare, ben, cleo]);

    // The long way back: a device that has never been there gets a snapshot, and older messages as it scrolls.
    const many = Array.from({ length: 90 }, (_, index) => `Bag ${index + 1}`);
    await cleo.evaluate(async (all) => {
      const { page } = await import("/page.js");
      const group = [...page.link.diary.conversations.keys()].find((key) => key.startsWith("g"));
      for (const text of all) page.link.send(group, text);
    }, many);
    expected.push(...many);
    await agree([ben], expected);
    const fresh = await device({ ...DESK, colorScheme: "dark" });
    const frames = [];
    const keep = ({ payload }) => frames.push(JSON.parse(payload));
    fresh.page.on("websocket", (socket) => socket.on("framereceived", keep).on("framesent", keep));
    await comeIn(fresh.page, "Dan");
    await unread(fresh.page, "Roof & garden").waitFor();
    await listsAgree([fresh.page]);
    assert.equal(frames.find(({ hello }) => hello).hello.cursor, undefined);
    assert.ok(
      frames.some(({ snapshot }) => snapshot),
      "who is far behind gets a snapshot",
    );
    await open(fresh.page, "Roof & garden");
    await sees(fresh.page, "Bag 90");
    assert.equal(await message(fresh.page, expected[0]).count(), 0, "what is far back was not asked for");
    await fresh.page.waitForFunction(
      (first) => {
        const scroll = document.querySelector("#scroll");
        const isThere = [...document.querySelectorAll("li.message .body")].some(
          ({ textContent }) => textContent === first,
        );
        if (!isThere) scroll.scrollTop = 0;
        return isThere;
      },
      expected[0],
      { polling: "raf" },
    );
    await agree([fresh.page], expected);
    await unread(fresh.page, "Roof & garden").waitFor({ state: "detached" });
    // What an answer answers is a click away.
    await message(fresh.page, "I can, and I bring the ladder").locator(".quote").click();
    await fresh.page.locator("li.message.found", { hasText: expected[0] }).waitFor();

    // Who leaves is out, and says so on both sides.
    await fresh.page.click("#about");
    await fresh.page.click("#group-leave");
    await fresh.page.click("#confirm-yes");
    await fresh.page.locator(".farewell").waitFor();
    assert.equal(await fresh.page.locator("#composer").isVisible(), false);
    await event(laptop, "Dan left");
    await laptop.locator("#presence", { hasText: "3 members" }).waitFor();

    await Promise.all([phone, spare, cleo].map(fits));
    assert.deepEqual(complaints, []);
    assert.equal(await end(server, "SIGTERM"), 0);
  } finally {
    // What a page has complained of may be why something else has not come.
    for (const complaint of complaints) console.error(complaint);
    server.kill("SIGKILL");
  }
}

await inBrowser(directory, main);
console.log(
  "three devices and a group of four: everything once and in order, read marks, roles, offline, a kill, a snapshot",
);
