// What the parts of the page share: the link to the server, which conversation is open, and when to draw.

export const page = {
  /** Null before somebody has come in. */
  link: null,
  /** The open conversation, null for none. */
  key: null,
  /** Draw the parts, in this order. */
  drawers: [],
  /** Told when another conversation is opened, before and after it is drawn: `(key, before)`. */
  onOpen: [],
  onOpened: [],
  isScheduled: false,

  /** Draws soon, and once. */
  later() {
    if (this.isScheduled) return;
    this.isScheduled = true;
    const draw = () => {
      this.isScheduled = false;
      this.draw();
    };
    // A hidden tab gets no animation frames, but its title counts.
    if (document.hidden) setTimeout(draw, 0);
    else requestAnimationFrame(draw);
  },

  draw() {
    if (this.link) for (const draw of this.drawers) draw();
  },

  isLookingAt(key) {
    return key === this.key && document.visibilityState === "visible" && document.hasFocus();
  },

  /** Opens a conversation, or with null the list. The address remembers it, so that Back works. */
  open(key) {
    const hash = key === null ? "" : `#${key}`;
    if (location.hash !== hash) history.pushState(null, "", hash || location.pathname);
    this.follow();
  },

  /** Opens what the address says. */
  follow() {
    const key = location.hash.slice(1);
    const next = /^g?[1-9][0-9]*$/.test(key) && key !== this.link?.diary.user ? key : null;
    const before = this.key;
    this.key = next;
    if (next !== before) for (const tell of this.onOpen) tell(next, before);
    this.draw();
    if (next !== before) for (const tell of this.onOpened) tell(next, before);
  },
};
