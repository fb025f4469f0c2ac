// Making and changing elements. Text stays text: nothing here, and nothing on this page, takes HTML.

export const $ = (id) => document.getElementById(id);

/** An element with properties and children; children that are null are left out. */
export function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key in node) node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

/** A drawn line, and what it says to those who do not see it. */
export function icon(path, label, size = 14) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  for (const [key, value] of Object.entries({
    viewBox: "0 0 24 24",
    width: size,
    height: size,
    "aria-hidden": "true",
  })) {
    svg.setAttribute(key, value);
  }
  const line = document.createElementNS(space, "path");
  const look = {
    d: path,
    fill: "none",
    stroke: "currentColor",
    "stroke-width": 2.4,
    "stroke-linecap": "round",
    "stroke-linejoin": "round",
  };
  for (const [key, value] of Object.entries(look)) line.setAttribute(key, value);
  svg.append(line);
  return label ? [svg, element("span", { className: "visually-hidden", textContent: label })] : [svg];
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Says what is wrong, where a place for that is; with an empty text nothing is. */
export function say(id, text) {
  setText($(id), text);
  $(id).hidden = !text;
}

/** A colour of its own for a user or a group. */
export function tint(node, id) {
  node.style.setProperty("--hue", String((BigInt(id.replace("g", "")) * 47n) % 360n));
}

/** Initials on that colour; groups are square. */
export function paint(avatar, id, name) {
  const words = name.split(/[\s._-]+/).filter(Boolean);
  // The last digits tell numbered users apart.
  const number = name.match(/^User \d*?(\d{1,2})$/);
  const initials = number
    ? number[1]
    : words.length > 1
      ? [...words[0]][0] + [...words.at(-1)][0]
      : [...name].slice(0, 2).join("");
  setText(avatar, initials.toUpperCase());
  avatar.classList.toggle("group", id.startsWith("g"));
  tint(avatar, id);
}

/** An avatar, with a dot when its user is there. */
export function avatarOf(id, name, there = null) {
  const avatar = element("span", { className: "avatar", "aria-hidden": "true" });
  paint(avatar, id, name);
  avatar.classList.toggle("online", there?.online === true);
  avatar.classList.toggle("away", there?.away === true);
  return avatar;
}

/**
 * Makes `parent` show these rows, in this order: `{key, look, fill}`. A row whose look has not changed is not touched.
 * `had` are the nodes by key as the last call gave them.
 */
export function reconcile(parent, had, rows) {
  const nodes = new Map();
  let before = null;
  for (const row of rows) {
    const node = had.get(row.key) ?? element("li");
    if (node.dataset.look !== row.look) {
      node.dataset.look = row.look;
      row.fill(node);
    }
    const follows = before ? before.nextSibling : parent.firstChild;
    if (follows !== node) parent.insertBefore(node, follows);
    before = node;
    nodes.set(row.key, node);
  }
  for (const [key, node] of had) if (!nodes.has(key)) node.remove();
  return nodes;
}
