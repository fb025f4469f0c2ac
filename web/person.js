// What one may do about the other of a direct conversation: count that one among the contacts, block, and take a block
// back. A menu at the conversation's head, and what stands in the place of the composer while one blocks.

import { focusComposer } from "/composer.js";
import { attempt, confirm } from "/dialog.js";
import { isGroup } from "/diary.js";
import { $, say, setText } from "/dom.js";
import { nameOf } from "/identity.js";
import { showMenu } from "/menu.js";
import { page } from "/page.js";

/** What blocking does, for those who are about to. */
const blockWords = (name) =>
  `What ${name} writes to you alone does not reach you any more, and neither of you sees whether the other is there. ` +
  `${name} is not told. In groups you go on seeing each other.`;

let drawnKey = null;

export function drawPerson() {
  const { link, key } = page;
  const isPerson = key !== null && !isGroup(key);
  const isBlocked = isPerson && link.people.isBlocked(key);
  $("person").hidden = !isPerson;
  $("pane").classList.toggle("blocked", isBlocked);
  if (isBlocked) setText($("blocked-text"), `You have blocked ${nameOf(key)}.`);
  if (drawnKey !== key) say("person-error", "");
  drawnKey = key;
}

/** Does it; what goes wrong is said below the conversation. */
const change = (act, button) => attempt("person-error", act, button);

export async function block(user) {
  const name = nameOf(user);
  if (await confirm(`Block ${name}?`, "Block", blockWords(name))) await change(() => page.link.people.block(user));
}

async function unblock(user, button) {
  const { people } = page.link;
  if ((await change(() => people.unblock(user), button)) && page.key === user) {
    page.draw();
    focusComposer(user);
  }
}

export function listenToPerson() {
  $("person").addEventListener("click", () => {
    const { key, link } = page;
    const { people } = link;
    const isContact = people.isContact(key);
    const items = [
      {
        label: isContact ? "Remove from contacts" : "Add to contacts",
        act: () => change(() => people.setContact(key, !isContact)),
      },
      people.isBlocked(key)
        ? { label: "Unblock", act: () => unblock(key) }
        : { label: "Block", isBad: true, act: () => block(key) },
    ];
    showMenu(nameOf(key), items, $("person"), $("person").getBoundingClientRect(), true);
  });
  $("unblock").addEventListener("click", () => unblock(page.key, $("unblock")));
}
