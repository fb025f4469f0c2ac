// Who this tab is: a guest's name or a pasted token, and a device of its own. Also what users are called.

import { api, Problem } from "/api.js";
import { browserDisk, randomText, tabDisk } from "/disk.js";

/** User ids from here on belong to names; those below are numbers that somebody chose. */
const FIRST_NAMED_USER = 1n << 63n;
const REMEMBERED_NAMES = 1000;

/** Names of users, shared by all tabs of this browser. */
export const names = {
  known: new Map(Object.entries(browserDisk.read("holdfast.names") ?? {})),
  asked: new Set(),
  /** Called when a name is new. */
  onLearn: () => {},

  learn(user, name) {
    if (this.known.get(user) === name) return;
    const others = browserDisk.read("holdfast.names") ?? {};
    this.known = new Map(Object.entries({ ...others, [user]: name }));
    browserDisk.write("holdfast.names", Object.fromEntries([...this.known].slice(-REMEMBERED_NAMES)));
    this.onLearn();
  },

  of(user) {
    const known = this.known.get(user);
    if (known) return known;
    if (BigInt(user) < FIRST_NAMED_USER) return `User ${user}`;
    if (!this.asked.has(user)) {
      this.asked.add(user);
      api(`/v1/guest?user=${user}`).then(
        (guest) => this.learn(user, guest.name),
        () => {},
      );
    }
    return `Guest ${BigInt(user).toString(16).slice(-4)}`;
  },
};

export const nameOf = (user) => names.of(user);

// Names that other tabs have learnt.
window.addEventListener("storage", ({ key, newValue }) => {
  if (key !== "holdfast.names" || !newValue) return;
  names.known = new Map(Object.entries(browserDisk.read("holdfast.names") ?? {}));
  names.onLearn();
});

/** Whether names stand for users here. Asks for nobody in particular: whether that is answered is the answer. */
export const areGuestsAllowed = api("/v1/guest/1").then(
  () => true,
  ({ code }) => code !== "not_found",
);

/** The user whom somebody calls by a name or a number. */
export async function userCalled(name) {
  const isAllowed = await areGuestsAllowed;
  const { user, name: called } = isAllowed ? await api(`/v1/guest/${encodeURIComponent(name)}`) : { user: name };
  if (!/^[1-9][0-9]*$/.test(user)) throw new Problem("user", "Guests are off here: a user is a number.");
  // The user's own spelling counts, where it is known.
  if (isAllowed && BigInt(user) >= FIRST_NAMED_USER && !names.known.has(user)) {
    const guest = await api(`/v1/guest?user=${user}`).catch(() => null);
    names.learn(user, guest?.name ?? called);
  }
  return user;
}

/** Which device of this user this tab is: the one that it was before it was reloaded, else the first that no other
 *  tab of this browser is. A device is given back when its tab closes, so that few are ever made. */
async function claimDevice(user) {
  const browser = browserDisk.read("holdfast.browser") ?? randomText(3);
  browserDisk.write("holdfast.browser", browser);
  const own = tabDisk.read(`holdfast.device.${user}`);
  if (!navigator.locks) {
    const device = own ?? `web-${browser}-${randomText(2)}`;
    tabDisk.write(`holdfast.device.${user}`, device);
    return device;
  }
  const free = (device) =>
    new Promise((resolve) => {
      // The lock is held until the promise is kept, which it never is: until the tab closes.
      navigator.locks.request(`holdfast.${user}.${device}`, { ifAvailable: true }, (lock) => {
        resolve(lock !== null);
        return lock && new Promise(() => {});
      });
    });
  const candidates = Array.from({ length: 64 }, (_, index) => `web-${browser}-${index + 1}`);
  if (own) candidates.unshift(own);
  for (const device of candidates) {
    if (await free(device)) {
      tabDisk.write(`holdfast.device.${user}`, device);
      return device;
    }
  }
  throw new Problem("devices", "This name is open in too many tabs.");
}

/** The claims of a token, unverified: only to know whose diary to open. */
function claimsOf(token) {
  try {
    const base64 = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    const claims = JSON.parse(new TextDecoder().decode(bytes));
    if (/^[1-9][0-9]*$/.test(claims.sub)) return claims;
  } catch {
    // Falls through.
  }
  throw new Problem("token", "That is not a token. `holdfast token --user 42 --device laptop` prints one.");
}

/** Who may come in with a name. Renews its token by itself. */
export async function guestIdentity(name) {
  const { user } = await api(`/v1/guest/${encodeURIComponent(name)}`);
  const device = await claimDevice(user);
  const renew = async () => (await api("/v1/guest", { name, device })).token;
  names.learn(user, name);
  return { user, name, device, token: await renew(), renew, remember: { name } };
}

export async function tokenIdentity(token) {
  const { sub, dev } = claimsOf(token);
  return {
    user: sub,
    name: names.of(sub),
    device: dev ?? (await claimDevice(sub)),
    token,
    renew: null,
    remember: { token },
  };
}
