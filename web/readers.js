// The dialog that shows who has read a message of one's own in a group.

import { $, avatarOf, element, setText } from "/dom.js";
import { nameOf } from "/identity.js";
import { page } from "/page.js";
import { clockTime } from "/words.js";

let readersOfMessage = null;

export function showReaders(key, message) {
  readersOfMessage = { key, seq: message.seq };
  // Large groups are not told as it happens.
  page.link.askWhoRead(key, true);
  $("readers").showModal();
  drawReaders();
}

export function drawReaders() {
  if (!$("readers").open) return;
  const { key, seq } = readersOfMessage;
  const { diary } = page.link;
  const { marks } = diary.with(key);
  const how = (user) => {
    const { read = 0, delivered = 0 } = marks[user] ?? {};
    return read >= seq ? "Read" : delivered >= seq ? "Arrived" : "On its way";
  };
  const order = ["Read", "Arrived", "On its way"];
  const others = diary.others(key).map((user) => ({ user, name: nameOf(user), how: how(user) }));
  others.sort((one, two) => order.indexOf(one.how) - order.indexOf(two.how) || one.name.localeCompare(two.name));
  const message = diary.with(key).messages.find((row) => row.seq === seq);
  setText($("readers-when"), message ? `Sent ${clockTime(message.time)}` : "");
  $("readers-list").replaceChildren(
    ...others.map(({ user, name, how }) => {
      const node = element(
        "li",
        { className: "member" },
        avatarOf(user, name),
        element("span", { className: "lines name", textContent: name }),
        element("span", { className: "role", textContent: how }),
      );
      node.dataset.how = how;
      return node;
    }),
  );
}
