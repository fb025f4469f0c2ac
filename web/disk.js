// What the browser keeps: `browserDisk` for all of its tabs, `tabDisk` for this one, over reloads.

/** Storage that may be full, forbidden or spoilt by somebody else; then there is none. */
const disk = (storage) => ({
  read(key) {
    try {
      return JSON.parse(storage().getItem(key));
    } catch {
      return null;
    }
  },
  /** True when it is written. */
  write(key, value) {
    try {
      storage().setItem(key, JSON.stringify(value));
      return true;
    } catch {
      return false;
    }
  },
  forget(key) {
    try {
      storage().removeItem(key);
    } catch {
      // There is none, so there is nothing to forget.
    }
  },
});

export const browserDisk = disk(() => localStorage);
export const tabDisk = disk(() => sessionStorage);

/** Text that no other device chooses by accident; works where `crypto.randomUUID` (secure pages only) does not. */
export function randomText(bytes) {
  return [...crypto.getRandomValues(new Uint8Array(bytes))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
