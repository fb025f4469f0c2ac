// The user's devices, within the settings: which there are, and how to shut one out.

import { confirm, rowButton } from "/dialog.js";
import { $, element, reconcile, setText } from "/dom.js";
import { page } from "/page.js";
import { presenceWords } from "/words.js";

/** As the server has told last; null: not yet. */
let devices = null;
/** On which connection they were asked for. */
let askedOn = null;
let rows = new Map();

/** The dialog opens anew: so they are asked for anew. */
export function forgetDevices() {
  devices = null;
  askedOn = null;
}

export function drawDevices() {
  const { link } = page;
  if (link.state === "live" && askedOn !== link.liveSince) ask();
  rows = reconcile(
    $("devices"),
    rows,
    inOrder(devices ?? []).map((device) => ({
      key: device.device,
      look: lookOf(device),
      fill: (node) => fill(node, device),
    })),
  );
  setText($("devices-rest"), link.state === "live" ? "Asking…" : "Not connected.");
  $("devices-rest").hidden = devices !== null;
}

/** This one first. */
const inOrder = (all) => [...all.filter(({ current }) => current), ...all.filter(({ current }) => !current)];

async function ask() {
  const { link } = page;
  const connection = link.liveSince;
  askedOn = connection;
  try {
    const told = await link.client.devices();
    if (askedOn === connection) devices = told;
  } catch {
    // The next connection tries again.
  }
  page.later();
}

const lookOf = ({ device, current, ...there }) => JSON.stringify([device, current, presenceWords(there)]);

function fill(node, { device, current, ...there }) {
  const shutOut = async () => {
    const detail = "It is signed out at once, and what signed it in is worth nothing any more.";
    if (await confirm(`Shut out ${device}?`, "Shut out", detail)) devices = await page.link.client.revokeDevice(device);
  };
  node.className = "member";
  node.replaceChildren(
    element(
      "div",
      { className: "lines" },
      element("span", { className: "name", textContent: device }),
      element("span", { className: "last", textContent: presenceWords(there) }),
    ),
    current
      ? element("span", { className: "role", textContent: "This one" })
      : rowButton("Shut out", device, "settings-error", shutOut, true),
  );
}
