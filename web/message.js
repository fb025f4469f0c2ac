// The elements of a row of a conversation.

import { avatarOf, element, icon, setText, tint } from "/dom.js";
import { page } from "/page.js";
import { clockTime } from "/words.js";

const CLOCK = "M12 7v5l3 2M12 3a9 9 0 1 0 0 18a9 9 0 0 0 0-18";
const TICK = "M4.5 12.5l5 5L19.5 7";
const TICKS = "M1 13l4.5 4.5L14 8M10.5 15.5l2 2L21 8";
const MORE = "M5 12h.01M12 12h.01M19 12h.01";

/** By this a row looks as it does. */
export const lookOf = ({ text, shown }) => text ?? JSON.stringify(shown);

/** Makes `node` show the row. */
export function fillRow(node, { kind, text, message, shown }) {
  if (kind === "message") {
    fillMessage(node, message, shown);
  } else {
    node.className = kind;
    setText(node, text);
  }
}

function fillMessage(node, message, shown) {
  const { isFirst, mine, sender, state, quote, marks, text } = shown;
  const classes = [
    "message",
    isFirst && "first",
    mine && "mine",
    sender && "named",
    state === "sending" && "waiting",
    state === "failed" && "failed",
    shown.change,
  ];
  node.className = classes.filter(Boolean).join(" ");
  node.dataset.state = state;
  node.dataset.ticks = marks && (state === "accepted" || state === "delivered") ? marks.ticks : "";
  // Ticks change while the message stays: a screen reader must not read it again.
  const said = JSON.stringify([isFirst, sender, text, quote]);
  if (node.dataset.said !== said) {
    node.dataset.said = said;
    makeMessage(node, message, shown);
  }
  node.querySelector(".more").hidden = !shown.hasMenu;
  node.querySelector(".foot").replaceChildren(...footOf(message, shown));
}

function makeMessage(node, message, { isFirst, sender, text, quote }) {
  const name = sender
    ? element("div", { className: isFirst ? "sender" : "visually-hidden", textContent: sender })
    : null;
  if (name) tint(name, message.from);
  const said = element(
    "div",
    { className: "said" },
    element("div", { className: "body", textContent: text }),
    element("div", { className: "foot", "aria-live": "off" }),
  );
  const bubble = element("div", { className: "bubble" }, name, quote && quoteNode(quote, message.replyTo), said);
  const more = element(
    "button",
    { type: "button", className: "more", "aria-haspopup": "menu", "aria-label": "What to do with this message" },
    ...icon(MORE, "", 18),
  );
  node.replaceChildren(...(sender ? [avatarOf(message.from, sender)] : []), bubble, more);
}

function quoteNode({ who, from, text }, seq) {
  const node = element("button", {
    type: "button",
    className: "quote",
    "aria-label": `Answers ${who || "an earlier message"}: ${text}`,
  });
  node.append(
    ...(who ? [element("span", { className: "who", textContent: who })] : []),
    element("span", { className: "text", textContent: text }),
  );
  if (from) tint(node, from);
  node.dataset.seq = String(seq);
  return node;
}

/** What stands under or behind a message. */
function footOf(message, { state, change, marks, why }) {
  if (state === "failed") {
    return [
      element("span", { textContent: `Not sent: ${why}` }),
      element("button", {
        type: "button",
        className: "link",
        textContent: "Try again",
        onclick: () => page.link.retry(message.unsent),
      }),
      element("button", {
        type: "button",
        className: "link",
        textContent: "Delete",
        onclick: () => page.link.drop(message.unsent),
      }),
    ];
  }
  const parts = [
    element("time", { dateTime: new Date(message.time).toISOString(), textContent: clockTime(message.time) }),
  ];
  if (change === "edited") parts.unshift(element("span", { textContent: "edited" }));
  if (!marks) return parts;
  if (state === "sending" || state === "changing") return [...parts, ...icon(CLOCK, "sending")];
  const { ticks, said } = marks;
  // Words that stand beside them are read aloud in their place.
  const drawn = icon(ticks === "sent" ? TICK : TICKS, said ? "" : ticks, 16);
  const node = element("span", { className: "ticks" }, ...drawn);
  return [...parts, said ? element("button", { type: "button", className: "link readers" }, said, node) : node];
}
