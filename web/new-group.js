// The dialog that makes a group.

import { attempt } from "/dialog.js";
import { isGroup } from "/diary.js";
import { $, avatarOf, element, say } from "/dom.js";
import { nameOf, userCalled } from "/identity.js";
import { page } from "/page.js";

/** Whom it is to have besides the user. */
let chosen = [];

function drawChosen() {
  $("chosen").replaceChildren(
    ...chosen.map((user) => {
      const name = nameOf(user);
      const remove = element("button", { type: "button", className: "chip", "aria-label": `${name}: take away` });
      remove.append(
        avatarOf(user, name),
        element("span", { textContent: name }),
        element("span", { className: "cross", "aria-hidden": "true", textContent: "×" }),
      );
      remove.addEventListener("click", () => {
        chosen = chosen.filter((other) => other !== user);
        drawChosen();
        $("new-member").focus();
      });
      return element("li", {}, remove);
    }),
  );
  $("chosen").hidden = chosen.length === 0;
}

async function choose() {
  const name = $("new-member").value.trim();
  if (!name) return;
  const user = await userCalled(name);
  $("new-member").value = "";
  if (user !== page.link.diary.user && !chosen.includes(user)) chosen = [...chosen, user];
  drawChosen();
}

export function listenToNewGroup() {
  const dialog = $("new-group");
  $("new-group-open").addEventListener("click", () => {
    chosen = [];
    drawChosen();
    drawAcquaintances();
    $("new-group-form").reset();
    say("new-group-error", "");
    dialog.showModal();
    $("new-title").focus();
  });
  $("new-title").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault();
    $("new-member").focus();
  });
  $("new-member-add").addEventListener("click", () => attempt("new-group-error", choose));
  $("new-member").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing || !$("new-member").value.trim()) return;
    // Enter adds; without a name it makes the group.
    event.preventDefault();
    attempt("new-group-error", choose);
  });
  $("new-group-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const make = async () => {
      // A name that was typed but not added is meant too.
      await choose();
      const title = $("new-title").value.trim();
      if (!title) {
        $("new-title").focus();
        throw new Error("A group needs a name.");
      }
      const key = await page.link.createGroup(title, chosen);
      // Made without a connection, it may be long after the user has turned to something else.
      if (!dialog.open) return;
      dialog.close();
      page.open(key);
    };
    attempt("new-group-error", make, $("new-group-make"));
  });
}

/** People whom the user knows, to be completed while typing. */
function drawAcquaintances() {
  const { diary, people } = page.link;
  const known = new Set([...people.contacts(), ...diary.keys().filter((key) => !isGroup(key))]);
  $("acquaintances").replaceChildren(...[...known].map((user) => element("option", { value: nameOf(user) })));
}
