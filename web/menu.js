// The menu that opens beside what it is about. Here also: what can be done with a message, by a click, a tap on the
// message, or the keyboard.

import { answer, edit } from "/composer.js";
import { confirm } from "/dialog.js";
import { $, element } from "/dom.js";
import { page } from "/page.js";
import { showReaders } from "/readers.js";
import { rowAt } from "/thread.js";

const EDGE_PIXELS = 8;
/** Where the focus goes back to. */
let opener = null;

/** A menu of `{label, act, isBad}` at a place, opened by `from`; to the right edge of the place or to its left one. */
export function showMenu(name, items, from, place, isRight) {
  const menu = $("menu");
  menu.setAttribute("aria-label", name);
  menu.replaceChildren(
    ...items.map(({ label, act, isBad = false }) => {
      const item = element("button", { type: "button", textContent: label, role: "menuitem", tabIndex: -1 });
      item.classList.toggle("bad", isBad);
      item.addEventListener("click", () => {
        menu.hidePopover();
        act();
      });
      return item;
    }),
  );
  opener = from;
  menu.showPopover();
  const { offsetWidth: width, offsetHeight: height } = menu;
  const below = place.bottom + 4;
  const top = below + height > innerHeight - EDGE_PIXELS ? place.top - height - 4 : below;
  const left = isRight ? place.right - width : place.left;
  menu.style.top = `${Math.max(EDGE_PIXELS, top)}px`;
  menu.style.left = `${Math.min(Math.max(EDGE_PIXELS, left), innerWidth - width - EDGE_PIXELS)}px`;
  menu.firstElementChild.focus();
}

function open(row, from, place) {
  const { message, can, mine } = row;
  const { key, link } = page;
  const remove = async () => {
    const whose = mine ? "this message" : "somebody else’s message";
    if (await confirm(`Delete ${whose} for everybody?`, "Delete")) link.delete(key, message.seq);
  };
  const items = [
    can.reply && { label: "Answer", act: () => answer(message) },
    can.edit && { label: "Edit", act: () => edit(message) },
    can.readers && { label: "Who has read it", act: () => showReaders(key, message) },
    can.delete && { label: "Delete", isBad: true, act: remove },
  ].filter(Boolean);
  if (items.length > 0) showMenu("Message", items, from, place, mine);
}

export function listenToMenu() {
  $("messages").addEventListener("click", ({ target }) => {
    const row = target.closest("li.message") && rowAt(target);
    if (!row?.can) return;
    if (target.closest(".readers")) return showReaders(page.key, row.message);
    const button = target.closest(".more");
    if (button) return open(row, button, button.getBoundingClientRect());
    const bubble = target.closest(".bubble");
    const isTap =
      bubble && matchMedia("(pointer: coarse)").matches && !target.closest("button") && getSelection().isCollapsed;
    if (isTap) open(row, bubble.parentElement.querySelector(".more"), bubble.getBoundingClientRect());
  });
  $("menu").addEventListener("keydown", (event) => {
    const items = [...$("menu").children];
    const at = items.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1 + items.length, Home: 0, End: items.length - 1 }[event.key];
    if (event.key === "Tab") $("menu").hidePopover();
    if (to === undefined) return;
    event.preventDefault();
    items[to % items.length].focus();
  });
  $("menu").addEventListener("toggle", ({ newState }) => {
    // Unless what was chosen has put it elsewhere.
    if (
      newState === "closed" &&
      (document.activeElement === document.body || $("menu").contains(document.activeElement))
    )
      opener?.focus();
  });
  for (const scrolling of ["wheel", "touchmove"])
    $("scroll").addEventListener(scrolling, () => $("menu").hidePopover(), { passive: true });
}
