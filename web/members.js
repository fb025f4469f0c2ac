// The dialog that shows who is in the open group, and lets its members do what their roles allow.

import { attempt, confirm } from "/dialog.js";
import { $, avatarOf, element, reconcile, say, setText } from "/dom.js";
import { nameOf, userCalled } from "/identity.js";
import { titleOf } from "/list.js";
import { page } from "/page.js";
import { presenceWords, ROLE_WORDS } from "/words.js";

const RANKS = { OWNER: 2, ADMIN: 1, MEMBER: 0 };

let members = new Map();
let drawnKey = null;

export function drawMembers() {
  const { link, key } = page;
  if (!$("group").open) return;
  const { title, role, group, gone } = link.diary.with(key);
  if (gone) return $("group").close();
  const rank = RANKS[role];
  setText($("group-title"), title);
  $("group-rename").hidden = rank < RANKS.ADMIN;
  $("group-add").hidden = rank < RANKS.ADMIN;
  if (drawnKey !== key) {
    members = new Map();
    $("group-members").replaceChildren();
    drawnKey = key;
  }
  const all = Object.entries(group?.members ?? {});
  const me = link.diary.user;
  // Owners first, then by name.
  all.sort(
    ([one, oneRole], [two, twoRole]) => RANKS[twoRole] - RANKS[oneRole] || nameOf(one).localeCompare(nameOf(two)),
  );
  members = reconcile(
    $("group-members"),
    members,
    all.map(([user, theirs]) => {
      const there = user === me ? null : link.there(user);
      const look = {
        user,
        name: user === me ? `${nameOf(user)} (you)` : nameOf(user),
        role: theirs,
        words: presenceWords(there),
        online: there?.online,
        away: there?.away,
        canSetRole: role === "OWNER" && user !== me,
        canRemove: user !== me && (role === "OWNER" || (role === "ADMIN" && theirs === "MEMBER")),
      };
      return { key: user, look: JSON.stringify(look), fill: (node) => fillMember(node, key, look) };
    }),
  );
  setText($("group-count"), `${all.length} ${all.length === 1 ? "member" : "members"}`);
}

function fillMember(node, key, { words, online, away, ...member }) {
  const { user } = member;
  const look = JSON.stringify(member);
  // Who comes and goes must not take the focus away.
  if (node.dataset.member !== look) {
    node.dataset.member = look;
    makeMember(node, key, member);
  }
  node.querySelector(".avatar").replaceWith(avatarOf(user, nameOf(user), { online, away }));
  setText(node.querySelector(".last"), words);
}

function makeMember(node, key, { user, name, role, canSetRole, canRemove }) {
  node.className = "member";
  const who = element(
    "div",
    { className: "lines" },
    element("span", { className: "name", textContent: name }),
    element("span", { className: "last" }),
  );
  const change = (kind, content) =>
    attempt("group-error", () => page.link.changeGroup(kind, key, { user, ...content }));
  let roleNode = element("span", { className: "role", textContent: ROLE_WORDS[role] });
  if (canSetRole) {
    roleNode = element("select", { className: "role", "aria-label": `Role of ${name}` });
    roleNode.append(
      ...Object.entries(ROLE_WORDS).map(([value, text]) =>
        element("option", { value, textContent: text, selected: value === role }),
      ),
    );
    roleNode.addEventListener("change", async () => {
      if (!(await change("setRole", { role: roleNode.value }))) roleNode.value = role;
    });
  }
  const remove = canRemove
    ? element("button", {
        type: "button",
        className: "quiet bad",
        textContent: "Remove",
        "aria-label": `Remove ${name}`,
      })
    : null;
  remove?.addEventListener("click", async () => {
    if (await confirm(`Remove ${name} from the group?`, "Remove")) await change("removeMember");
  });
  node.replaceChildren(avatarOf(user, nameOf(user)), who, roleNode, ...(remove ? [remove] : []));
}

export function listenToMembers() {
  const dialog = $("group");
  const change = (kind, content, button) =>
    attempt("group-error", () => page.link.changeGroup(kind, page.key, content), button);
  $("about").addEventListener("click", () => {
    say("group-error", "");
    $("rename-form").hidden = true;
    dialog.showModal();
    drawMembers();
  });
  $("group-rename").addEventListener("click", () => {
    $("rename-form").hidden = !$("rename-form").hidden;
    $("rename").value = $("group-title").textContent;
    if (!$("rename-form").hidden) $("rename").select();
  });
  $("rename-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const title = $("rename").value.trim();
    if (title && (await change("rename", { title }, event.submitter))) $("rename-form").hidden = true;
  });
  $("group-add").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = $("add-member").value.trim();
    if (!name) return;
    const { key } = page;
    attempt("group-error", async () => {
      const user = await userCalled(name);
      await page.link.changeGroup("addMembers", key, { users: [user] });
      $("add-member").value = "";
    });
  });
  $("group-leave").addEventListener("click", async () => {
    if (await confirm(`Leave “${titleOf(page.key)}”? Only its admins can bring you back.`, "Leave group"))
      await change("leave");
  });
}
