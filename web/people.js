// What others are to the user: contacts, blocked; and who may see whether the user is there. That is the server's to
// say: it is asked for on each connection, and told to all devices when it changes.

const ASKED_AT_ONCE = 1000;

export class People {
  #client;
  #onChange;
  /** User → `{contact, blocked}`; nobody who is neither. */
  #known = new Map();
  /** The same while it is asked for anew: what changes meanwhile belongs into both. */
  #asked = null;
  /** `everyone`, `contacts` or `nobody`; null while that is not known. */
  presence = null;

  constructor(client, onChange) {
    this.#client = client;
    this.#onChange = onChange;
  }

  isContact(user) {
    return this.#known.get(user)?.contact === true;
  }

  isBlocked(user) {
    return this.#known.get(user)?.blocked === true;
  }

  contacts() {
    return [...this.#known.keys()].filter((user) => this.isContact(user));
  }

  blocked() {
    return [...this.#known.keys()].filter((user) => this.isBlocked(user));
  }

  /** Asks for all of them. */
  async ask() {
    const asked = new Map();
    this.#asked = asked;
    let part;
    try {
      for (let after = "0"; after !== undefined; ) {
        part = await this.#client.people({ after, limit: ASKED_AT_ONCE });
        // Asked again meanwhile.
        if (this.#asked !== asked) return;
        put(asked, part.people);
        after = part.end ? undefined : part.people.at(-1)?.user;
      }
    } catch {
      // The next connection tries again.
      return;
    }
    this.#asked = null;
    this.#known = asked;
    this.presence = part.presence;
    this.#onChange();
  }

  /** Something has changed, here or on another device. */
  take({ presence, people }) {
    this.presence = presence;
    put(this.#known, people);
    if (this.#asked) put(this.#asked, people);
    this.#onChange();
  }

  // Each is kept when the server has it durably, and throws what it refuses; `take` has been told then.

  block(user) {
    return this.#client.block(user);
  }

  unblock(user) {
    return this.#client.unblock(user);
  }

  setContact(user, contact) {
    return this.#client.setContact(user, contact);
  }

  setPresence(audience) {
    return this.#client.setPrivacy(audience);
  }
}

function put(known, people) {
  for (const { user, contact, blocked } of people) {
    if (contact || blocked) known.set(user, { contact, blocked });
    else known.delete(user);
  }
}
