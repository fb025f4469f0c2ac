// What all dialogs have in common, and the one that asks "are you sure?".

import { $, element, say, setText } from "/dom.js";
import { page } from "/page.js";

/** Runs what a form asks for; what goes wrong is said at `errorId`. True when nothing did. */
export async function attempt(errorId, act, button = null) {
  say(errorId, "");
  if (button) button.disabled = true;
  try {
    await act();
    return true;
  } catch (error) {
    say(errorId, error.message);
    return false;
  } finally {
    if (button) button.disabled = false;
  }
}

/** A button at the end of a row of a dialog; what it does may take the row away, but not the focus with it. */
export function rowButton(label, name, errorId, act, isBad = false) {
  const button = element("button", {
    type: "button",
    className: isBad ? "quiet bad" : "quiet",
    textContent: label,
    "aria-label": `${label} ${name}`,
  });
  button.addEventListener("click", async () => {
    const dialog = button.closest("dialog");
    await attempt(errorId, act, button);
    page.draw();
    if (dialog.open) (button.isConnected ? button : dialog.querySelector(".close")).focus();
  });
  return button;
}

/** Asks whether that is meant; `detail` says what it does, where that is not plain. */
export function confirm(question, yes, detail = "") {
  const dialog = $("confirm");
  setText($("confirm-question"), question);
  say("confirm-detail", detail);
  setText($("confirm-yes"), yes);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }),
  );
}

export function listenToDialogs() {
  $("confirm-yes").addEventListener("click", () => $("confirm").close("yes"));
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.querySelector(".close")?.addEventListener("click", () => dialog.close());
    // A click beside it closes it.
    dialog.addEventListener("click", ({ target, clientX, clientY }) => {
      const { left, right, top, bottom } = dialog.getBoundingClientRect();
      const isBeside = clientX < left || clientX > right || clientY < top || clientY > bottom;
      if (target === dialog && isBeside) dialog.close();
    });
  }
}

/** Another conversation is open. */
export function closeDialogs() {
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
}
