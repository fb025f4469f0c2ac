// The chat page of Holdfast, on the client library (clients/ts). This file lets people in and out, and wires the rest:
//
//   identity.js   who this tab is, and what users are called; api.js, disk.js   what it stands on
//   diary.js      what this device has: its cursor, its conversations, and the outbox
//   link.js       between diary, view and the library's client, which speaks to the server
//   page.js       what is open, and when to draw it
//   list.js       the left column; thread.js, rows.js, message.js, composer.js, menu.js   the open conversation
//   person.js     what the other of a direct conversation is to the user, who in people.js all are
//   dialog.js     what opens over the page: new-group.js, members.js, readers.js, settings.js with devices.js
//   words.js      how things are said; dom.js   how they become elements

import { Problem } from "/api.js";
import { changeComposer, fitComposer, focusComposer, listenToComposer } from "/composer.js";
import { closeDialogs, listenToDialogs } from "/dialog.js";
import { Diary } from "/diary.js";
import { tabDisk } from "/disk.js";
import { $, say } from "/dom.js";
import { areGuestsAllowed, guestIdentity, names, tokenIdentity, userCalled } from "/identity.js";
import { Link } from "/link.js";
import { drawList, drawStatus, listenToList, returnToList } from "/list.js";
import { drawMembers, listenToMembers } from "/members.js";
import { listenToMenu } from "/menu.js";
import { listenToNewGroup } from "/new-group.js";
import { page } from "/page.js";
import { drawPerson, listenToPerson } from "/person.js";
import { drawReaders } from "/readers.js";
import { drawSettings, listenToSettings } from "/settings.js";
import { drawThread, listenToThread } from "/thread.js";

async function enter(makeIdentity) {
  say("login-error", "");
  const button = $("login-form").querySelector("[type=submit]");
  button.disabled = true;
  try {
    const identity = await makeIdentity();
    tabDisk.write("holdfast.identity", identity.remember);
    $("login").hidden = true;
    $("app").hidden = false;
    page.link = await Link.open(identity, new Diary(identity.user, identity.device), {
      onChange: () => page.later(),
      onComplaint: (key, text) => key === page.key && say("composer-hint", text),
    });
    page.follow();
    if (page.key === null) $("with").focus();
  } catch (error) {
    $("login").hidden = false;
    say("login-error", error.message);
    (useToken() ? $("token") : $("name")).focus();
  } finally {
    button.disabled = false;
  }
}

function signOut() {
  page.link?.leave();
  tabDisk.forget("holdfast.identity");
  // A fresh page also gives the device back to other tabs.
  history.replaceState(null, "", location.pathname);
  location.reload();
}

const useToken = () => !$("token-part").hidden;

function offerToken(token, canSwitch = true) {
  $("token-part").hidden = !token;
  $("name-part").hidden = token;
  $("login-switch").hidden = !canSwitch;
  $("login-switch").textContent = token ? "Use a name instead" : "I have a token";
  say("login-error", "");
}

async function startConversation(name) {
  const user = await userCalled(name);
  if (user === page.link.diary.user) throw new Problem("self", "That is you. Write to somebody else.");
  page.link.begin(user);
  page.open(user);
}

function listenToDoors() {
  $("login-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const token = $("token").value.trim();
    const name = $("name").value.trim();
    if (useToken()) enter(() => tokenIdentity(token));
    else if (name) enter(() => guestIdentity(name));
    else $("name").focus();
  });
  $("login-switch").addEventListener("click", () => {
    offerToken(!useToken());
    (useToken() ? $("token") : $("name")).focus();
  });
  $("start-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    say("start-error", "");
    const name = $("with").value.trim();
    if (!name) return;
    try {
      await startConversation(name);
      $("with").value = "";
    } catch (error) {
      say("start-error", error.message);
    }
  });
  $("sign-out").addEventListener("click", signOut);
}

function listenToBrowser() {
  $("back").addEventListener("click", () => page.open(null));
  $("trouble-retry").addEventListener("click", () => {
    const { link } = page;
    if (link.state === "stopped" && !link.canResume) signOut();
    else link.hurry();
  });
  window.addEventListener("online", () => page.link?.hurry());
  window.addEventListener("offline", () => page.link?.hurry());
  window.addEventListener("focus", () => page.later());
  window.addEventListener("resize", fitComposer);
  window.addEventListener("popstate", () => page.link && page.follow());
  window.addEventListener("pagehide", () => page.link?.saveNow());
  document.addEventListener("visibilitychange", () => {
    const { link } = page;
    link?.client.setAway(document.visibilityState === "hidden");
    if (document.visibilityState === "hidden") link?.saveNow();
    else if (link?.state === "waiting" || link?.state === "live") link.hurry();
    page.later();
  });
}

async function main() {
  names.onLearn = () => page.later();
  page.drawers = [drawStatus, drawList, drawThread, drawPerson, drawMembers, drawReaders, drawSettings];
  page.onOpen = [closeDialogs, changeComposer];
  page.onOpened = [focusComposer, returnToList];
  listenToDoors();
  listenToBrowser();
  listenToList();
  listenToThread();
  listenToComposer();
  listenToMenu();
  listenToDialogs();
  listenToNewGroup();
  listenToMembers();
  listenToPerson();
  listenToSettings();
  const remembered = tabDisk.read("holdfast.identity");
  const isAllowed = await areGuestsAllowed;
  offerToken(!isAllowed, isAllowed);
  if (remembered?.name) return enter(() => guestIdentity(remembered.name));
  if (remembered?.token) return enter(() => tokenIdentity(remembered.token));
  $("login").hidden = false;
  (useToken() ? $("token") : $("name")).focus();
}

main();
