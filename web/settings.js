// The dialog of what the user sets: who sees whether the user is there, the devices (devices.js), who is a contact, and
// who is blocked. What another device changes shows at once.

import { drawDevices, forgetDevices } from "/devices.js";
import { attempt, rowButton } from "/dialog.js";
import { $, avatarOf, element, reconcile, say, setText } from "/dom.js";
import { nameOf } from "/identity.js";
import { page } from "/page.js";

/** Of very many contacts so many are shown: each may have a name that is to be asked for. */
const SHOWN_PEOPLE = 200;

const rows = { contacts: new Map(), blocked: new Map() };

export function drawSettings() {
  if (!$("settings").open) return;
  const { link } = page;
  const { people } = link;
  // Why there is nothing to be set any more stands on the page.
  if (link.state === "stopped" && !link.canResume) return $("settings").close();
  for (const choice of document.querySelectorAll("#privacy input")) {
    choice.disabled = people.presence === null;
    choice.checked = choice.value === people.presence;
  }
  drawDevices();
  drawPeople("contacts", people.contacts(), "Remove", (user) => people.setContact(user, false));
  drawPeople("blocked", people.blocked(), "Unblock", (user) => people.unblock(user));
}

function drawPeople(id, users, label, act) {
  const shown = users.slice(0, SHOWN_PEOPLE).map((user) => ({ user, name: nameOf(user) }));
  shown.sort((one, two) => one.name.localeCompare(two.name));
  rows[id] = reconcile(
    $(id),
    rows[id],
    shown.map((one) => ({
      key: one.user,
      look: one.name,
      fill: (node) => {
        node.className = "member";
        node.replaceChildren(
          avatarOf(one.user, one.name),
          element("span", { className: "lines name", textContent: one.name }),
          rowButton(label, one.name, "settings-error", () => act(one.user)),
        );
      },
    })),
  );
  const left = users.length - shown.length;
  setText($(`${id}-rest`), left > 0 ? `And ${left} others.` : "Nobody.");
  $(`${id}-rest`).hidden = left === 0 && users.length > 0;
}

export function listenToSettings() {
  $("settings-open").addEventListener("click", () => {
    say("settings-error", "");
    forgetDevices();
    $("settings").showModal();
    drawSettings();
  });
  $("privacy").addEventListener("change", async ({ target }) => {
    await attempt("settings-error", () => page.link.people.setPresence(target.value));
    // If it was refused, it is as it was.
    drawSettings();
  });
}
