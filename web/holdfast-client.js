// The client library of Holdfast in one file, for browsers and Node.
// Made by clients/ts/build.mjs from clients/ts/src, which is the place to change it.

// ---- errors.ts

/** What a request can end with instead of an answer, and why a connection is gone. */
/**
 * A request was refused for good. `code` is one of docs/protocol.md's, or one of this side's: `outbox_full`,
 * `too_many_queries`, `timeout`, `closed`, `duplicate`, `bad_text`.
 */
class RequestError extends Error {
    name = "RequestError";
    code;
    constructor(code, message) {
        super(message);
        this.code = code;
    }
}
/** Too much waits for its `accepted` already; what was given was not taken. */
class OutboxFullError extends RequestError {
    requests;
    bytes;
    constructor(requests, bytes) {
        super("outbox_full", `${requests} requests of ${bytes} bytes wait for their answers, as many as are allowed`);
        this.requests = requests;
        this.bytes = bytes;
    }
}
/** The same request may pass later. */
const PASSING = new Set(["rate_limited", "overloaded", "storage_failed", "storage_full"]);
function isPassing(code) {
    return PASSING.has(code);
}

// ---- checks.ts

/**
 * What is refused here already, where it was written.
 *
 * Most limits are the server's to judge. Here stand those whose refusal would not say which request it means, and
 * those that would cost the connection.
 */
/** A conversation's name as the server reads it: `@43`, `42:43` or `g7`. */
function checkConversation(name) {
    const number = "(0|[1-9][0-9]{0,19})";
    if (new RegExp(`^(@|g|${number}:)${number}$`).test(name))
        return name;
    throw new RequestError("bad_conversation", `a conversation is called @43, 42:43 or g7, not ${JSON.stringify(name)}`);
}
/** Half a surrogate pair has no UTF-8: the server could not read the frame. */
function checkText(text) {
    if (/\p{Surrogate}/u.test(text))
        throw new RequestError("bad_text", "the text has half a character (a lone surrogate)");
    return text;
}
function checkClientId(clientId) {
    const bytes = utf8Bytes(checkText(clientId));
    if (bytes >= 1 && bytes <= 64)
        return clientId;
    throw new RequestError("bad_client_id", `a clientId has 1 to 64 bytes, not ${bytes}`);
}
function checkContent(content, bytesMax) {
    const bytes = contentBytes(content);
    if (bytes <= bytesMax)
        return content;
    throw new RequestError("message_too_large", `the body has ${bytes} bytes; ${bytesMax} are allowed`);
}
/** Of a history, and of a list of conversations; 0: as many as the server likes. */
function checkLimit(limit, max = 200) {
    if (Number.isSafeInteger(limit) && limit >= 0 && limit <= max)
        return limit;
    throw new RangeError(`limit is 0 to ${max}, not ${limit}`);
}
function checkDays(days) {
    if (Number.isSafeInteger(days) && days >= 0 && days <= 36_500)
        return days;
    throw new RangeError(`a group keeps messages for 1 to 36,500 days, or (0) as long as the server does, not for ${days}`);
}
function utf8Bytes(text) {
    return new TextEncoder().encode(text).length;
}
function contentBytes(content) {
    if ("text" in content)
        return utf8Bytes(checkText(content.text));
    if ("custom" in content) {
        checkText(content.custom.contentType);
        // Base64 with or without padding.
        return Math.floor((content.custom.data.replace(/=+$/, "").length * 3) / 4);
    }
    const { id, contentType, name, caption } = content.media;
    for (const text of [id, contentType, name])
        checkText(text);
    return utf8Bytes(checkText(caption));
}

// ---- environment.ts

/** What a client needs from the world: connections, time and chance. Tests bring their own. */
/** The one that browsers and Node (22 and later) have. */
const platform = {
    connect(url, subprotocol, events) {
        const socket = new WebSocket(url, [subprotocol]);
        socket.onopen = () => events.onOpen();
        // What is not text is not of this subprotocol; as text without content it breaks the protocol.
        socket.onmessage = ({ data }) => events.onText(typeof data === "string" ? data : "");
        socket.onclose = ({ code, reason }) => events.onClose(code, reason);
        return {
            send: (text) => socket.send(text),
            close() {
                socket.onopen = socket.onmessage = socket.onclose = null;
                socket.close(1000);
            },
        };
    },
    nowMs: () => performance.now(),
    wallMs: () => Date.now(),
    startTimer(delayMs, onTime) {
        // A longer delay than 31 bits of milliseconds would come at once.
        const timer = setTimeout(onTime, Math.min(Math.max(delayMs, 0), 2 ** 31 - 1));
        return () => clearTimeout(timer);
    },
    random: Math.random,
    // Works where `crypto.randomUUID` (secure pages only) does not.
    newName: () => [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join(""),
};

// ---- ids.ts

/**
 * 64-bit numbers of the protocol, as strings of digits.
 *
 * A JavaScript number is exact only up to 2^53, so an id, a `seq` or a `rev` is never one here. As text they are
 * compared without being converted: without leading zeros the longer one is the greater one.
 */
/** Below 0 when `one` is the smaller, above 0 when it is the greater. */
function compareIds(one, other) {
    if (one.length !== other.length)
        return one.length - other.length;
    return one < other ? -1 : one > other ? 1 : 0;
}
function nextId(id) {
    return String(BigInt(id) + 1n);
}
function maxId(one, other) {
    return compareIds(one, other) >= 0 ? one : other;
}
/** Takes what a caller gave; what is none throws, so that it is found where it was written. */
function toId(input, what) {
    const id = String(input);
    if (!isId(id))
        throw new RangeError(`${what} is a number from 0 to 2^64 - 1 in digits, not ${JSON.stringify(id)}`);
    return id;
}
function isId(text) {
    return /^(0|[1-9][0-9]{0,19})$/.test(text) && compareIds(text, "18446744073709551615") <= 0;
}
/** A direct conversation has several names (`@43`, `42:43`); this is the one that the server uses. */
function conversationId(name, user) {
    const [one, other] = name.startsWith("@") ? [user, name.slice(1)] : name.split(":");
    if (one === undefined || other === undefined)
        return name;
    return compareIds(one, other) <= 0 ? `${one}:${other}` : `${other}:${one}`;
}

// ---- frames.ts

/**
 * Frames of `holdfast.v1.json`: one object with one key per WebSocket message.
 *
 * What a server sends is read leniently where later versions may say more (frames, entries and fields that are not
 * known here), and strictly where this client relies on it: a `rev` that is no number must not become a cursor.
 */
const SUBPROTOCOL = "holdfast.v1.json";
/** The server's bytes are not what the protocol says. */
class FrameError extends Error {
    name = "FrameError";
}
function parseServerFrame(text) {
    let frame;
    try {
        frame = JSON.parse(text);
    }
    catch {
        throw new FrameError("a message that is not JSON");
    }
    const name = isRecord(frame) ? Object.keys(frame)[0] : undefined;
    // An object without a key would be a frame of a later version which has nothing to say to this one.
    if (!isRecord(frame))
        throw new FrameError("a message that is not an object");
    if (name === undefined)
        return { kind: "other", name: "", content: frame };
    const content = frame[name];
    const read = readers[name];
    if (read === undefined || !Object.hasOwn(readers, name))
        return { kind: "other", name, content };
    if (!isRecord(content))
        throw new FrameError(`${name} is not an object`);
    return read(content);
}
const readers = {
    welcome: (content) => ({ kind: "welcome", welcome: welcomeOf(content) }),
    accepted: (content) => {
        const conversation = textIn(content, "conversation");
        const accepted = {
            clientId: textIn(content, "clientId"),
            messageId: idIn(content, "messageId"),
            seq: idIn(content, "seq"),
        };
        return { kind: "accepted", accepted: conversation === "" ? accepted : { ...accepted, conversation } };
    },
    event: (content) => ({ kind: "event", event: inboxEntryOf(content) }),
    page: (content) => ({
        kind: "page",
        events: listIn(content, "events").map(inboxEntryOf),
        isLive: flagIn(content, "live"),
    }),
    history: (content) => ({
        kind: "history",
        history: {
            conversation: textIn(content, "conversation"),
            messages: listIn(content, "messages").map(messageOf),
            head: idIn(content, "head"),
            end: flagIn(content, "end"),
        },
    }),
    receipts: (content) => ({
        kind: "receipts",
        receipts: {
            conversation: textIn(content, "conversation"),
            members: listIn(content, "members").map((member) => ({
                user: idIn(member, "user"),
                read: idIn(member, "read"),
                delivered: idIn(member, "delivered"),
            })),
        },
    }),
    conversations: (content) => ({ kind: "conversations", conversations: conversationsOf(content) }),
    snapshot: (content) => ({ kind: "snapshot", part: conversationsOf(content) }),
    group: (content) => ({
        kind: "group",
        group: {
            conversation: textIn(content, "conversation"),
            title: textIn(content, "title"),
            openHistory: flagIn(content, "openHistory"),
            members: listIn(content, "members").map((member) => {
                return { user: idIn(member, "user"), role: textIn(member, "role"), joined: idIn(member, "joined") };
            }),
            seq: idIn(content, "seq"),
            retentionDays: wholeIn(content, "retentionDays"),
        },
    }),
    devices: (content) => ({
        kind: "devices",
        devices: listIn(content, "devices").map((device) => {
            const state = {
                device: textIn(device, "device"),
                online: flagIn(device, "online"),
                current: flagIn(device, "current"),
                cursor: idIn(device, "cursor"),
            };
            return device["lastSeenMs"] === undefined ? state : { ...state, lastSeenMs: idIn(device, "lastSeenMs") };
        }),
    }),
    people: (content) => ({
        kind: "people",
        people: {
            presence: textIn(content, "presence"),
            people: listIn(content, "people").map((person) => ({
                user: idIn(person, "user"),
                contact: flagIn(person, "contact"),
                blocked: flagIn(person, "blocked"),
            })),
            end: flagIn(content, "end"),
            changed: flagIn(content, "changed"),
        },
    }),
    typing: (content) => ({
        kind: "typing",
        typing: {
            conversation: textIn(content, "conversation"),
            user: idIn(content, "user"),
            stopped: flagIn(content, "stopped"),
        },
    }),
    presence: (content) => ({
        kind: "presence",
        users: listIn(content, "users").map((user) => {
            const there = { user: idIn(user, "user"), online: flagIn(user, "online"), away: flagIn(user, "away") };
            return user["lastSeenMs"] === undefined ? there : { ...there, lastSeenMs: idIn(user, "lastSeenMs") };
        }),
    }),
    gap: () => ({ kind: "gap" }),
    drain: (content) => ({ kind: "drain", afterMs: wholeIn(content, "afterMs"), to: textIn(content, "to") }),
    error: (content) => ({
        kind: "error",
        error: {
            code: textIn(content, "code"),
            message: textIn(content, "message"),
            retryAfterMs: wholeIn(content, "retryAfterMs"),
            clientId: textIn(content, "clientId"),
        },
    }),
    pong: () => ({ kind: "pong" }),
};
function welcomeOf(content) {
    const limits = isRecord(content["limits"]) ? content["limits"] : {};
    return {
        user: idIn(content, "user"),
        device: textIn(content, "device"),
        heartbeatMs: wholeIn(content, "heartbeatMs"),
        cursor: idIn(content, "cursor"),
        head: idIn(content, "head"),
        limits: {
            messageBytes: wholeIn(limits, "messageBytes"),
            pageEntries: wholeIn(limits, "pageEntries"),
            sendPerSecond: wholeIn(limits, "sendPerSecond"),
            sendBurst: wholeIn(limits, "sendBurst"),
        },
        serverTimeMs: idIn(content, "serverTimeMs"),
    };
}
function inboxEntryOf(event) {
    const entry = event["entry"] ?? {};
    if (!isRecord(entry))
        throw new FrameError("entry is not an object");
    const { message } = entry;
    if (message !== undefined && !isRecord(message))
        throw new FrameError("message is not an object");
    // An entry of an unknown kind has its place in the inbox all the same.
    return { rev: idIn(event, "rev"), entry: message === undefined ? entry : { ...entry, message: messageOf(message) } };
}
function conversationsOf(content) {
    const conversations = listIn(content, "conversations").map((state) => {
        textIn(state, "conversation");
        return state;
    });
    return { conversations, rev: idIn(content, "rev"), end: flagIn(content, "end") };
}
/** Only what other parts of this library rely on is checked; the rest is between the server and the application. */
function messageOf(message) {
    textIn(message, "conversation");
    idIn(message, "seq");
    return message;
}
function isRecord(value) {
    return typeof value === "object" && value !== null && !Array.isArray(value);
}
// As in protobuf, a field that is not there is zero or empty.
function textIn(fields, key) {
    const value = fields[key] ?? "";
    if (typeof value !== "string")
        throw new FrameError(`${key} is not a text`);
    return value;
}
function idIn(fields, key) {
    const value = fields[key] ?? "0";
    if (typeof value !== "string" || !isId(value))
        throw new FrameError(`${key} is not a 64-bit number in digits`);
    return value;
}
function wholeIn(fields, key) {
    const value = fields[key] ?? 0;
    if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0)
        throw new FrameError(`${key} is not a number`);
    return value;
}
function flagIn(fields, key) {
    const value = fields[key] ?? false;
    if (typeof value !== "boolean")
        throw new FrameError(`${key} is neither true nor false`);
    return value;
}
function listIn(fields, key) {
    const value = fields[key] ?? [];
    if (!Array.isArray(value) || !value.every(isRecord))
        throw new FrameError(`${key} is not a list of objects`);
    return value;
}

// ---- backoff.ts

/**
 * When to reconnect.
 *
 * What the server said counts first: a close code that means "do not", a delay of a `drain` frame or of an `error`.
 * Else the delay is drawn from zero to a bound that doubles with each failure ("full jitter"), so that clients that
 * were cut off together do not come back together.
 */
/** A connection that lasted this long was a success: the next failure is the first again. */
const STABLE_MS = 10_000;
/** docs/protocol.md has the table; a code that is not known counts by its range. */
function afterClose(code) {
    if ([1000, 1002, 1003, 1007, 1008, 1009, 1010].includes(code))
        return "never";
    if (code >= 4000 && code <= 4099)
        return "never";
    return code >= 4200 && code <= 4299 ? "atOnce" : "afterDelay";
}
class Backoff {
    #firstMs;
    #maxMs;
    #failures = 0;
    /** When the server wants to see this client again; a time of its own, or one that others were given as well. */
    #hint = null;
    constructor(firstMs, maxMs) {
        this.#firstMs = firstMs;
        this.#maxMs = maxMs;
    }
    /** Attempts since the last connection that lasted. */
    get failures() {
        return this.#failures;
    }
    /** `drain` gave this client a time of its own. */
    comeBackAt(atMs) {
        this.#hint = { atMs, isOwn: true };
    }
    /** An error said when; perhaps the same to a million others. */
    notBefore(atMs) {
        if (!this.#hint?.isOwn)
            this.#hint = { atMs, isOwn: false };
    }
    /** When to connect again, after a connection that was welcomed `lastedMs` ago, if it was; `null`: never. */
    next(nowMs, lastedMs, reconnect, random) {
        if (lastedMs !== null && lastedMs >= STABLE_MS)
            this.#failures = 0;
        const isFirst = this.#failures === 0;
        const boundMs = Math.min(this.#firstMs * 2 ** Math.min(this.#failures, 32), this.#maxMs);
        this.#failures += 1;
        const hint = this.#hint;
        this.#hint = null;
        const jitterMs = Math.round(random() * boundMs);
        if (reconnect === "never")
            return null;
        if (hint !== null && hint.atMs > nowMs)
            return hint.isOwn ? hint.atMs : hint.atMs + jitterMs;
        // "At once" is believed once: a server that always says so would be asked in a loop.
        if (reconnect === "atOnce" && isFirst)
            return nowMs;
        return nowMs + jitterMs;
    }
}

// ---- heartbeat.ts

/**
 * Signs of life, in both directions.
 *
 * The server must hear from this client once per interval. A browser cannot send WebSocket pongs, so the beat is a
 * `ping` frame; its answer shows that the server is still there. When nothing at all comes after one, it is not.
 */
/** A server that asks for more than one beat a second is not believed. */
const INTERVAL_MIN_MS = 1_000;
/** How long a server may take to answer a beat. */
const PATIENCE_MAX_MS = 15_000;
/** Timers come late, those of a tab in the background above all; a beat that is early costs nothing. */
const EARLY = 0.9;
class Heartbeat {
    #intervalMs;
    #patienceMs;
    #heardMs;
    #spokeMs;
    #askedMs = null;
    constructor(intervalMs, nowMs) {
        const soundMs = Math.max(intervalMs, INTERVAL_MIN_MS);
        this.#intervalMs = soundMs * EARLY;
        this.#patienceMs = Math.min(soundMs, PATIENCE_MAX_MS);
        this.#heardMs = nowMs;
        this.#spokeMs = nowMs;
    }
    hear(nowMs) {
        this.#heardMs = nowMs;
        this.#askedMs = null;
    }
    speak(nowMs) {
        this.#spokeMs = nowMs;
    }
    /** A beat was sent, which must be answered. */
    ask(nowMs) {
        this.#askedMs ??= nowMs;
        this.#spokeMs = nowMs;
    }
    nextMs() {
        const deadMs = this.#askedMs === null ? Infinity : this.#askedMs + this.#patienceMs;
        return Math.min(this.#beatMs(), deadMs);
    }
    /** What is due: to send a beat, or to give the connection up. */
    due(nowMs) {
        if (this.#askedMs !== null && nowMs >= this.#askedMs + this.#patienceMs)
            return "dead";
        return nowMs >= this.#beatMs() ? "beat" : null;
    }
    #beatMs() {
        const silentMs = this.#spokeMs + this.#intervalMs;
        // Who speaks all the time and hears nothing must ask too.
        return this.#askedMs === null ? Math.min(silentMs, this.#heardMs + 2 * this.#intervalMs) : silentMs;
    }
}

// ---- inbox.ts

/**
 * The inbox as it arrives: every entry once, in the order of `rev`, whatever mixture of pages and events brings it; or
 * a snapshot in the place of very many.
 *
 * ```text
 *   told ≤ stored ≤ handled ≤ cursor
 *     │       │        │        └ has come, and waits for the application or is with it
 *     │       │        └ the application has said that it is done with it
 *     │       └ and that is written down: the next start, and the next connection, go on from here
 *     └ and the server knows
 * ```
 */
class Inbox {
    #waitingMax;
    #waiting = [];
    /** A snapshot that waits, before the entries that wait. */
    #snapshot = null;
    /** Parts of one that has not ended, by conversation. */
    #parts = null;
    #cursor;
    #handled;
    #stored;
    #told = "0";
    #isCongested = false;
    constructor(cursor, waitingMax) {
        this.#waitingMax = waitingMax;
        this.#cursor = cursor;
        this.#handled = cursor ?? "0";
        this.#stored = cursor ?? "0";
    }
    /** The last entry that has come; `null`: a new device, which does not know yet where the server lets it begin. */
    get cursor() {
        return this.#cursor;
    }
    get handled() {
        return this.#handled;
    }
    get stored() {
        return this.#stored;
    }
    /** Entries were left out because too many waited for the application: they must be asked for. */
    get isCongested() {
        return this.#isCongested;
    }
    /** Where a new device begins. */
    begin(cursor) {
        if (this.#cursor !== null)
            return;
        this.#cursor = cursor;
        this.#handled = cursor;
        this.#stored = cursor;
    }
    /** Takes the entry after the cursor. `missed`: there is a hole before it. */
    take(entry) {
        const cursor = this.#cursor ?? "0";
        if (compareIds(entry.rev, cursor) <= 0)
            return "known";
        // Left out on purpose, and asked for when there is room again.
        if (this.#waiting.length >= this.#waitingMax)
            this.#isCongested = true;
        if (this.#isCongested)
            return "left out";
        if (entry.rev !== nextId(cursor))
            return "missed";
        this.#cursor = entry.rev;
        this.#waiting.push(entry);
        return "taken";
    }
    /** Takes a part of a snapshot; with the last one it stands for everything up to its `rev`. */
    takeSnapshot({ conversations, rev, end }) {
        if (compareIds(rev, this.#cursor ?? "0") <= 0)
            return;
        if (this.#parts?.rev !== rev)
            this.#parts = { rev, conversations: new Map() };
        for (const state of conversations)
            this.#parts.conversations.set(state.conversation, state);
        if (!end)
            return;
        // What waits before it is in it.
        this.#snapshot = { conversations: [...this.#parts.conversations.values()], rev };
        this.#waiting = [];
        this.#isCongested = false;
        this.#cursor = rev;
        this.#parts = null;
    }
    /** What waits for the application and comes first. */
    takeWaiting() {
        const snapshot = this.#snapshot;
        if (snapshot !== null) {
            this.#snapshot = null;
            return { snapshot, rev: snapshot.rev };
        }
        const last = this.#waiting.at(-1);
        if (last === undefined)
            return null;
        const entries = this.#waiting;
        this.#waiting = [];
        return { entries, rev: last.rev };
    }
    /** There is room again; true when something was left out meanwhile. */
    endCongestion() {
        if (!this.#isCongested || this.#waiting.length > 0)
            return false;
        this.#isCongested = false;
        return true;
    }
    /** The application is done with everything up to `rev`. */
    handle(rev) {
        if (compareIds(rev, this.#cursor ?? "0") > 0) {
            throw new RangeError(`entries up to ${this.#cursor ?? 0} have come, so ${rev} cannot be acknowledged`);
        }
        this.#handled = maxId(this.#handled, rev);
    }
    /** And that is written down. */
    store(rev) {
        this.#stored = maxId(this.#stored, rev);
    }
    /** What the server is to be told, if it does not know. */
    untold() {
        return compareIds(this.#stored, this.#told) > 0 ? this.#stored : null;
    }
    tell(rev) {
        this.#told = rev;
    }
    /** It may not have heard: another connection, or a refusal that does not say what it refuses. */
    tellAgain() {
        this.#told = "0";
    }
}

// ---- outbox.ts

/**
 * Requests on their way: kept until the server has accepted them or refused them for good.
 *
 * Invariant: of one conversation there is one request in flight at a time, the oldest. So nothing can change their
 * order, neither a refusal ("later, please") nor a connection that breaks: the server knows a request that it has by
 * its `clientId`, and answers as it did before. Different conversations do not wait for each other.
 */
class Outbox {
    #limits;
    #waiting = [];
    #bytes = 0;
    constructor(limits) {
        this.#limits = limits;
    }
    get size() {
        return this.#waiting.length;
    }
    /** What has to survive a restart. */
    frames() {
        return this.#waiting.map(({ frame }) => frame);
    }
    push(frame, version) {
        const clientId = clientIdOf(frame);
        if (this.#waiting.some((waiting) => waiting.clientId === clientId)) {
            throw new RequestError("duplicate", `a request with the clientId ${JSON.stringify(clientId)} waits for its answer`);
        }
        const bytes = utf8Bytes(JSON.stringify(frame));
        if (this.size >= this.#limits.requests || this.#bytes + bytes > this.#limits.bytes) {
            throw new OutboxFullError(this.size, this.#bytes);
        }
        this.restore(frame, version);
    }
    /** As {@link push}, for what was taken before a restart: no limit may lose it. */
    restore(frame, version) {
        const bytes = utf8Bytes(JSON.stringify(frame));
        this.#bytes += bytes;
        this.#waiting.push({ clientId: clientIdOf(frame), frame, bytes, version, isInFlight: false });
    }
    /** The next request that may go: stored, and the oldest of its conversation. */
    next(user, storedVersion) {
        const seen = new Set();
        for (const { clientId, frame, version, isInFlight } of this.#waiting) {
            const conversation = conversationOf(frame);
            const lane = conversation === null ? `new ${clientId}` : conversationId(conversation, user);
            if (seen.has(lane))
                continue;
            seen.add(lane);
            if (!isInFlight && version <= storedVersion)
                return frame;
        }
        return null;
    }
    inFlight() {
        return this.#waiting.filter(({ isInFlight }) => isInFlight).map(({ clientId }) => clientId);
    }
    markSent(frame) {
        const waiting = this.#waiting.find((waiting) => waiting.frame === frame);
        if (waiting)
            waiting.isInFlight = true;
    }
    /** It has to be sent again. False: it was not waiting. */
    sendAgain(clientId) {
        const waiting = this.#waiting.find((waiting) => waiting.clientId === clientId);
        if (waiting)
            waiting.isInFlight = false;
        return waiting !== undefined;
    }
    /** Another connection, which has seen nothing. */
    beginAgain() {
        for (const waiting of this.#waiting)
            waiting.isInFlight = false;
    }
    /** It was answered. False: it was not waiting; the answer to a repetition may come after the answer. */
    remove(clientId) {
        const waiting = this.#waiting.find((waiting) => waiting.clientId === clientId);
        if (!waiting)
            return false;
        this.#bytes -= waiting.bytes;
        this.#waiting = this.#waiting.filter((other) => other !== waiting);
        return true;
    }
}
/** A frame is an object with one key. */
function contentOf(frame) {
    const [content] = Object.values(frame);
    return content;
}
function clientIdOf(frame) {
    return contentOf(frame).clientId;
}
function conversationOf(frame) {
    return contentOf(frame).conversation ?? null;
}

// ---- pace.ts

/**
 * Not faster than the server takes: a bucket of tokens.
 *
 * A tenth of the burst is kept in reserve, for what the network squeezes together.
 */
class Pace {
    #perMs;
    #capacity;
    #available;
    #filledMs;
    #notBeforeMs = 0;
    /** `perSecond` 0: as fast as you like. */
    constructor(perSecond, burst, nowMs) {
        this.#perMs = perSecond / 1000;
        this.#capacity = Math.max(burst - Math.floor(burst / 10), 1);
        this.#available = this.#capacity;
        this.#filledMs = nowMs;
    }
    /** The server said so: nothing before then. */
    pauseUntil(atMs) {
        this.#notBeforeMs = Math.max(this.#notBeforeMs, atMs);
        this.#available = Math.min(this.#available, 1);
    }
    /** Takes what one request costs, if it may go now. */
    take(nowMs) {
        if (this.nextMs(nowMs) > nowMs)
            return false;
        if (this.#perMs > 0)
            this.#available -= 1;
        return true;
    }
    /** When the next request may go. */
    nextMs(nowMs) {
        if (this.#perMs === 0)
            return Math.max(this.#notBeforeMs, nowMs);
        const filled = Math.max(nowMs - this.#filledMs, 0) * this.#perMs;
        this.#available = Math.min(this.#available + filled, this.#capacity);
        this.#filledMs = Math.max(this.#filledMs, nowMs);
        const missing = Math.max(1 - this.#available, 0);
        // Rounded so that a sum of fractions does not wait one more millisecond for ever.
        return Math.max(this.#notBeforeMs, nowMs + Math.ceil(missing / this.#perMs - 1e-6));
    }
}

// ---- queries.ts

/**
 * Requests without a `clientId` that are answered all the same: `history`, `receipts`, `read`, `conversations`,
 * `group`, `devices`, `revokeDevice`, `people`, `block`, `unblock`, `setContact`, `setPrivacy`.
 *
 * A refusal of one does not say which it means, so one is in flight at a time: then it can only be that one. An answer
 * is known by its conversation, and by not contradicting the question.
 */
class Queries {
    #max;
    #timeoutMs;
    #waiting = [];
    #ids = 0;
    constructor(max, timeoutMs) {
        this.#max = max;
        this.#timeoutMs = timeoutMs;
    }
    get size() {
        return this.#waiting.length;
    }
    /** Its id; for a `read` of a conversation whose last one was not sent yet, the id of that, which now says more. */
    push(frame) {
        const same = "read" in frame ? this.#unsentRead(frame.read.conversation) : undefined;
        if (same !== undefined && "read" in frame && "read" in same.frame) {
            const upTo = maxId(same.frame.read.upTo, frame.read.upTo);
            same.frame = { read: { conversation: frame.read.conversation, upTo } };
            return same.id;
        }
        if (this.size >= this.#max) {
            throw new RequestError("too_many_queries", `${this.size} queries wait for their answers, as many as are allowed`);
        }
        this.#ids += 1;
        this.#waiting.push({ id: this.#ids, frame, sentMs: null });
        return this.#ids;
    }
    /** The one to be sent, if none is in flight. */
    next() {
        const [first] = this.#waiting;
        return first && first.sentMs === null ? first.frame : null;
    }
    markSent(nowMs) {
        const [first] = this.#waiting;
        if (first)
            first.sentMs = nowMs;
    }
    get isInFlight() {
        const [first] = this.#waiting;
        return first !== undefined && first.sentMs !== null;
    }
    /** Another connection, or a refusal that means "later". */
    sendAgain() {
        const [first] = this.#waiting;
        if (first)
            first.sentMs = null;
    }
    /** Takes an answer if it is one to the query in flight. */
    answer(answer, user) {
        const [first] = this.#waiting;
        if (!first || first.sentMs === null)
            return null;
        const { id, frame } = first;
        switch (answer.kind) {
            case "history":
                return "history" in frame && fitsHistory(frame.history, answer.history, user) ? this.#settle(id, answer.history) : null;
            case "receipts":
                return fitsReceipts(frame, answer.receipts, user) ? this.#settle(id, answer.receipts) : null;
            case "conversations":
                return "conversations" in frame ? this.#settle(id, answer.conversations) : null;
            case "group":
                return "group" in frame && frame.group.conversation === answer.group.conversation ? this.#settle(id, answer.group) : null;
            case "devices":
                return "devices" in frame || "revokeDevice" in frame ? this.#settle(id, answer.devices) : null;
            case "people":
                return fitsPeople(frame, answer.people) ? this.#settle(id, answer.people) : null;
        }
    }
    /** When {@link due} has something to say. */
    nextMs() {
        const [first] = this.#waiting;
        if (!first || first.sentMs === null)
            return Infinity;
        return first.sentMs + this.#timeoutMs;
    }
    due(nowMs) {
        if (nowMs < this.nextMs())
            return null;
        return this.fail(new RequestError("timeout", "the server has not answered in time"));
    }
    /** The query in flight was refused for good, or given up. */
    fail(error) {
        if (!this.isInFlight)
            return null;
        const query = this.#waiting.shift();
        return query ? { id: query.id, error } : null;
    }
    #settle(id, answer) {
        this.#waiting.shift();
        return { id, answer };
    }
    #unsentRead(conversation) {
        return this.#waiting.find(({ frame, sentMs }) => sentMs === null && "read" in frame && frame.read.conversation === conversation);
    }
}
/** A query that was sent twice may be answered twice; the second answer must not pass for that to another question. */
function fitsHistory({ conversation, before, after }, history, user) {
    if (conversationId(conversation, user) !== history.conversation)
        return false;
    return history.messages.every(({ seq }) => (before === undefined || compareIds(seq, before) < 0) && (after === undefined || compareIds(seq, after) > 0));
}
/** Notes name those others who have read on; the answers name this user: to `read` alone, to `receipts` with all. */
function fitsReceipts(frame, { conversation, members }, user) {
    const own = members.find((member) => member.user === user);
    if (own === undefined)
        return false;
    if ("read" in frame) {
        return conversationId(frame.read.conversation, user) === conversation && compareIds(own.read, frame.read.upTo) >= 0;
    }
    if (!("receipts" in frame) || conversationId(frame.receipts.conversation, user) !== conversation)
        return false;
    // A group may have no other members.
    return members.length > 1 || conversation.startsWith("g");
}
/** What another device has changed comes unasked, and may be the very same. */
function fitsPeople(frame, people) {
    const is = (user, so) => people.changed && people.people.some((person) => person.user === user && so(person));
    if ("people" in frame)
        return !people.changed;
    if ("block" in frame)
        return is(frame.block.user, (person) => person.blocked);
    if ("unblock" in frame)
        return is(frame.unblock.user, (person) => !person.blocked);
    if ("setContact" in frame)
        return is(frame.setContact.user, (person) => person.contact === frame.setContact.contact);
    return "setPrivacy" in frame && people.changed && people.presence === frame.setPrivacy.presence;
}

// ---- machine.ts

/**
 * The state machine of one device: frames, time and requests in; frames, deadlines and events out.
 *
 * ```text
 *                 connection            welcome
 *   connecting ──────────────▶ greeting ───────▶ open ───▶ ended
 *       ▲                          │               │         ▲
 *       │ at its time              ▼               ▼         │ "do not reconnect"
 *       └───────────────────────waiting ◀──── lost ──────────┘
 * ```
 *
 * It owns no socket, clock, storage or source of randomness; {@link Client} does what it says. After every call:
 * write what `pollTransmit` gives, store what `pollSave` gives, hand on what `pollBatch` gives, act on what
 * `pollEvent` gives, and come back at `pollTimeout`.
 */
/** A refusal that says "later" but not when. */
const RETRY_MS = 1_000;
/**
 * The server allows 2 frames per second, with a burst of 20, that are neither sends nor named: half of them for
 * queries, the rest for acks, syncs and beats. (`welcome` does not say so; a refusal is obeyed in any case.)
 */
const QUERIES_PER_SECOND = 1;
const QUERIES_BURST = 10;
/** Before `welcome` says it. */
const MESSAGE_BYTES = 65_536;
class Machine {
    #options;
    #random;
    #backoff;
    #outbox;
    #queries;
    #inbox;
    #state = { name: "idle" };
    #nowMs = 0;
    /** Frames that are not drawn from a queue of their own: `hello`, `typing`. */
    #out = [];
    #events = [];
    #isBeatDue = false;
    /** The server asked to come there instead. */
    #nextUrl = null;
    #isTokenRefused = false;
    #isTokenFresh = false;
    #lastError = null;
    #messageBytesMax = MESSAGE_BYTES;
    /** When to ask for what is missing; when pages that are on their way must have come. */
    #syncAtMs = null;
    #pagesByMs = null;
    /** A page began too late, and nothing has come since that did not. */
    #isHoleKnown = false;
    #ackAtMs = 0;
    /** Whom the application watches, and whether anybody is at this device: each connection is told anew. */
    #watched = [];
    #isAway = false;
    #owesWatch = false;
    #owesAway = false;
    /** Requests that the server could not read, among those in flight; their refusals do not say which. */
    #unreadable = 0;
    /** What has to survive a restart: how often it changed, and up to which change it was given out and stored. */
    #version = 0;
    #savingVersion = 0;
    #storedVersion = 0;
    constructor(options, random) {
        this.#options = options;
        this.#random = random;
        this.#backoff = new Backoff(options.backoffFirstMs, options.backoffMaxMs);
        this.#outbox = new Outbox({ requests: options.outboxRequests, bytes: options.outboxBytes });
        this.#queries = new Queries(options.queries, options.queryTimeoutMs);
        this.#inbox = new Inbox(options.kept.cursor, options.inboxEntries);
        for (const frame of options.kept.outbox)
            this.#outbox.restore(frame, 0);
    }
    // What the application asks for.
    /** Connects now: at first, instead of later, or again after the end. Without effect while there is a connection. */
    connect(nowMs) {
        this.#advance(nowMs);
        if (this.#state.name === "idle" || this.#state.name === "waiting" || this.#state.name === "ended")
            this.#connect();
    }
    /** The network, the user or the machine came back: connects if it waits for that, else asks who is there. */
    hurry(nowMs) {
        this.#advance(nowMs);
        if (this.#state.name === "waiting")
            this.#connect();
        else if (this.#state.name === "open")
            this.#isBeatDue = true;
    }
    close(nowMs) {
        this.#advance(nowMs);
        if (this.#state.name !== "ended")
            this.#lose({ kind: "local" }, "never");
    }
    /** Whose presence is to be told, on this connection and those to come; the last list counts. */
    watch(users) {
        this.#watched = users;
        this.#owesWatch = true;
    }
    /** Nobody is at this device, or somebody again. */
    setAway(isAway) {
        if (isAway === this.#isAway)
            return;
        this.#isAway = isAway;
        this.#owesAway = true;
    }
    /** The application's handler failed. */
    fail(nowMs, error) {
        this.#advance(nowMs);
        if (this.#state.name !== "ended")
            this.#lose({ kind: "handlerFailed", error }, "never");
    }
    /** Puts a request into the outbox; gives its `clientId`. */
    request(frame) {
        this.#outbox.push(frame, this.#version + 1);
        this.#version += 1;
        return clientIdOf(frame);
    }
    /** Asks something; gives the id by which the answer is told. */
    query(frame) {
        return this.#queries.push(frame);
    }
    /** Says something that is worth nothing later: only while there is a connection. */
    say(frame) {
        if (this.#state.name === "open")
            this.#out.push(frame);
    }
    /** The application is done with everything up to `rev`. */
    handled(rev) {
        const before = this.#inbox.handled;
        this.#inbox.handle(rev);
        if (this.#inbox.handled !== before)
            this.#version += 1;
    }
    /** Forgets how far this device is: the server's inbox is another one. Only without a connection. */
    startOver() {
        if (this.#state.name !== "ended" && this.#state.name !== "idle")
            throw new Error("close the client before it starts over");
        this.#inbox = new Inbox("0", this.#options.inboxEntries);
        this.#version += 1;
    }
    // What others ask of it.
    /** The last entry that has come. */
    get cursor() {
        return this.#inbox.cursor;
    }
    get outbox() {
        return this.#outbox.frames();
    }
    get messageBytesMax() {
        return this.#messageBytesMax;
    }
    // What happens to the connection, the storage, and time.
    /** The WebSocket is open. `isTokenFresh`: the token has never been good yet; there is no sense in another one. */
    handleOpen(nowMs, token, isTokenFresh) {
        this.#advance(nowMs);
        if (this.#state.name !== "connecting")
            return;
        this.#isTokenFresh = isTokenFresh;
        this.#state = { name: "greeting", deadlineMs: this.#state.deadlineMs };
        const hello = { token, device: this.#options.device, everyEntry: !this.#options.takesSnapshots };
        // What is stored, not what has come: a server may take this for an `ack`. What comes twice by it is dropped.
        const isNew = this.#inbox.cursor === null;
        this.#out.push({ hello: isNew ? hello : { ...hello, cursor: this.#inbox.stored } });
    }
    handleMessage(nowMs, text) {
        this.#advance(nowMs);
        if (this.#state.name !== "greeting" && this.#state.name !== "open")
            return;
        if (this.#state.name === "open")
            this.#state.heartbeat.hear(this.#nowMs);
        try {
            this.#handleFrame(parseServerFrame(text));
        }
        catch (error) {
            if (!(error instanceof FrameError))
                throw error;
            this.#breakOff(error.message);
        }
    }
    /** The WebSocket is closed, or could not be opened. */
    handleClose(nowMs, code, reason) {
        this.#advance(nowMs);
        const { name } = this.#state;
        if (name !== "connecting" && name !== "greeting" && name !== "open")
            return;
        const why = { kind: "closed", code, reason, error: this.#lastError };
        const isRefused = code === 4000 || code === 4001;
        if (isRefused && this.#options.canRenewToken && (name === "open" || !this.#isTokenFresh)) {
            this.#isTokenRefused = true;
            this.#lose(why, "atOnce", false);
        }
        else {
            this.#lose(why, afterClose(code), false);
        }
    }
    /** What `pollSave` gave is stored. With `isStored` false it could not be: then requests go out all the same, for
     *  waiting would not save them, but nothing is acknowledged. */
    handleSaved({ version, kept }, isStored) {
        this.#storedVersion = Math.max(this.#storedVersion, version);
        if (isStored && kept.cursor !== null)
            this.#inbox.store(kept.cursor);
    }
    handleTimeout(nowMs) {
        this.#advance(nowMs);
        const state = this.#state;
        if (state.name === "waiting" && this.#nowMs >= state.atMs)
            this.#connect();
        if ((state.name === "connecting" || state.name === "greeting") && this.#nowMs >= state.deadlineMs) {
            this.#lose({ kind: "connectTimeout" }, "afterDelay");
        }
        if (state.name !== "open")
            return;
        const due = state.heartbeat.due(this.#nowMs);
        if (due === "dead")
            return this.#lose({ kind: "silent" }, "atOnce");
        if (due === "beat")
            this.#isBeatDue = true;
        if (this.#pagesByMs !== null && this.#nowMs >= this.#pagesByMs) {
            return this.#breakOff("the next page did not come in time");
        }
        this.#settle(this.#queries.due(this.#nowMs));
    }
    // What is to be done next.
    /** The next frame for the WebSocket. */
    pollTransmit(nowMs) {
        this.#advance(nowMs);
        const frame = this.#out.shift() ?? (this.#state.name === "open" ? this.#nextFrame(this.#state) : null);
        if (frame === null)
            return null;
        if (this.#state.name === "open")
            this.#state.heartbeat.speak(this.#nowMs);
        return JSON.stringify(frame);
    }
    /** What is to be stored; then `handleSaved` is to be called. */
    pollSave() {
        if (this.#savingVersion === this.#version)
            return null;
        this.#savingVersion = this.#version;
        const cursor = this.#inbox.cursor === null ? null : this.#inbox.handled;
        return { version: this.#version, kept: { cursor, outbox: this.#outbox.frames() } };
    }
    /** Entries for the application, in order, or a snapshot; when it is done with them, `handled` is to be called. */
    pollBatch() {
        const waiting = this.#inbox.takeWaiting();
        if (this.#inbox.endCongestion())
            this.#syncAtMs = this.#nowMs;
        return waiting;
    }
    pollEvent() {
        return this.#events.shift() ?? null;
    }
    /** When `handleTimeout` is to be called; `null`: no need. */
    pollTimeout() {
        const state = this.#state;
        switch (state.name) {
            case "idle":
            case "ended":
                return null;
            case "waiting":
                return state.atMs;
            case "connecting":
            case "greeting":
                return state.deadlineMs;
            case "open": {
                let nextMs = Math.min(state.heartbeat.nextMs(), this.#queries.nextMs());
                nextMs = Math.min(nextMs, this.#pagesByMs ?? Infinity);
                if (!this.#inbox.isCongested)
                    nextMs = Math.min(nextMs, this.#syncAtMs ?? Infinity);
                if (this.#inbox.untold() !== null)
                    nextMs = Math.min(nextMs, this.#ackAtMs);
                if (this.#unreadable === 0) {
                    if (this.#owesWatch || this.#owesAway)
                        nextMs = Math.min(nextMs, state.queryPace.nextMs(this.#nowMs));
                    if (this.#queries.next() !== null)
                        nextMs = Math.min(nextMs, state.queryPace.nextMs(this.#nowMs));
                    const request = this.#outbox.next(state.user, this.#storedVersion);
                    if (request !== null)
                        nextMs = Math.min(nextMs, state.sendPace.nextMs(this.#nowMs));
                }
                return nextMs;
            }
        }
    }
    // Frames from the server.
    #handleFrame(frame) {
        const state = this.#state;
        switch (frame.kind) {
            case "error":
                return this.#handleError(frame.error);
            case "drain":
                this.#backoff.comeBackAt(this.#nowMs + frame.afterMs);
                this.#nextUrl = this.#safeUrl(frame.to);
                return;
            case "other":
                this.#events.push({ kind: "other", name: frame.name, content: frame.content });
                return;
            case "welcome":
                if (state.name === "open")
                    return this.#breakOff("a second `welcome`");
                return this.#handleWelcome(frame.welcome);
            default:
        }
        if (state.name !== "open")
            return this.#breakOff(`\`${frame.kind}\` before \`welcome\``);
        switch (frame.kind) {
            case "event":
                if (this.#inbox.take(frame.event) === "missed" && !this.#isSyncing())
                    this.#syncAtMs = this.#nowMs;
                return;
            case "page":
                return this.#handlePage(frame.events, frame.isLive);
            case "gap":
                this.#syncAtMs = this.#nowMs;
                this.#events.push({ kind: "gap" });
                return;
            case "accepted":
                if (!this.#outbox.remove(frame.accepted.clientId))
                    return;
                this.#version += 1;
                this.#events.push({ kind: "accepted", accepted: frame.accepted });
                return this.#findUnreadable();
            case "snapshot":
                if (!this.#options.takesSnapshots)
                    return this.#breakOff("a snapshot, though every entry was asked for");
                this.#inbox.takeSnapshot(frame.part);
                if (this.#pagesByMs !== null)
                    this.#pagesByMs = this.#pageDeadline();
                return;
            case "receipts":
                this.#events.push({ kind: "receipts", receipts: frame.receipts });
                return this.#settle(this.#queries.answer(frame, state.user));
            case "history":
            case "conversations":
            case "group":
            case "devices":
                return this.#settle(this.#queries.answer(frame, state.user));
            case "people":
                if (frame.people.changed)
                    this.#events.push({ kind: "people", people: frame.people });
                return this.#settle(this.#queries.answer(frame, state.user));
            case "typing":
                this.#events.push({ kind: "typing", typing: frame.typing });
                return;
            case "presence":
                this.#events.push({ kind: "presence", users: frame.users });
                return;
            case "pong":
        }
    }
    #handleWelcome(welcome) {
        const nowMs = this.#nowMs;
        const { limits, user, head } = welcome;
        this.#state = {
            name: "open",
            sinceMs: nowMs,
            user,
            heartbeat: new Heartbeat(welcome.heartbeatMs, nowMs),
            sendPace: new Pace(limits.sendPerSecond, limits.sendBurst, nowMs),
            queryPace: new Pace(QUERIES_PER_SECOND, QUERIES_BURST, nowMs),
        };
        if (limits.messageBytes > 0)
            this.#messageBytesMax = limits.messageBytes;
        this.#inbox.begin(welcome.cursor);
        const cursor = this.#inbox.cursor ?? welcome.cursor;
        // What was told on the last connection may not have arrived.
        this.#inbox.tellAgain();
        this.#ackAtMs = nowMs;
        this.#tellPresenceAgain();
        this.#events.push({ kind: "state", state: { name: "open" } }, { kind: "welcome", welcome });
        // The server goes on from its own idea of the cursor; where that is too far, it is told so.
        if (compareIds(welcome.cursor, cursor) > 0)
            this.#syncAtMs = nowMs;
        if (welcome.cursor !== head)
            this.#pagesByMs = this.#pageDeadline();
        if (!this.#isSyncing())
            this.#events.push({ kind: "live", rev: cursor });
    }
    #handlePage(events, isLive) {
        for (const event of events) {
            if (this.#inbox.take(event) === "missed") {
                // The rest of an answer to another idea of the cursor. The answer to the `sync` that is sent now, or was sent
                // already, begins where it should; if it never comes, the deadline ends it.
                if (this.#syncAtMs === null && !this.#isHoleKnown) {
                    this.#syncAtMs = this.#nowMs;
                    this.#isHoleKnown = true;
                }
                return;
            }
            this.#isHoleKnown = false;
        }
        if (isLive && this.#syncAtMs === null) {
            this.#pagesByMs = null;
            if (!this.#inbox.isCongested)
                this.#events.push({ kind: "live", rev: this.#inbox.cursor ?? "0" });
        }
        else if (this.#pagesByMs !== null && events.length > 0) {
            this.#pagesByMs = this.#pageDeadline();
        }
    }
    #handleError({ code, message, retryAfterMs, clientId }) {
        this.#lastError = { code, message };
        const retryAtMs = this.#nowMs + (retryAfterMs > 0 ? retryAfterMs : RETRY_MS);
        // Should the server close now, that is when to come back.
        if (retryAfterMs > 0)
            this.#backoff.notBefore(retryAtMs);
        if (this.#state.name !== "open")
            return;
        const { sendPace, queryPace } = this.#state;
        if (clientId !== "") {
            if (isPassing(code)) {
                if (this.#outbox.sendAgain(clientId))
                    sendPace.pauseUntil(retryAtMs);
            }
            else {
                this.#reject(clientId, new RequestError(code, message));
            }
            return this.#findUnreadable();
        }
        // It does not say what it refuses.
        if (isPassing(code)) {
            this.#inbox.tellAgain();
            this.#ackAtMs = Math.max(this.#ackAtMs, retryAtMs);
            if (this.#isSyncing())
                this.#syncAtMs = retryAtMs;
            this.#queries.sendAgain();
            this.#tellPresenceAgain();
            queryPace.pauseUntil(retryAtMs);
        }
        else if (code === "bad_frame") {
            this.#unreadable += 1;
            this.#findUnreadable();
        }
        else if (code !== "cursor_ahead") {
            this.#settle(this.#queries.fail(new RequestError(code, message)));
        }
        this.#events.push({ kind: "refused", refused: { code, message } });
    }
    /** As many requests as could not be read will never be answered: when no others are left, it was those. Until then
     *  nothing new is asked. So one that no server understands cannot hold up what comes after it. */
    #findUnreadable() {
        if (this.#unreadable === 0)
            return;
        const requests = this.#outbox.inFlight();
        if (requests.length + (this.#queries.isInFlight ? 1 : 0) > this.#unreadable)
            return;
        this.#unreadable = 0;
        const error = () => new RequestError("bad_frame", this.#lastError?.message ?? "the server cannot read it");
        for (const clientId of requests)
            this.#reject(clientId, error());
        this.#settle(this.#queries.fail(error()));
    }
    #reject(clientId, error) {
        if (!this.#outbox.remove(clientId))
            return;
        this.#version += 1;
        this.#events.push({ kind: "rejected", clientId, error });
    }
    #settle(settled) {
        if (settled === null)
            return;
        if ("error" in settled)
            this.#events.push({ kind: "failed", ...settled });
        else
            this.#events.push({ kind: "answered", ...settled });
        this.#findUnreadable();
    }
    // Frames to the server.
    #nextFrame(state) {
        const nowMs = this.#nowMs;
        if (this.#syncAtMs !== null && this.#syncAtMs <= nowMs && !this.#inbox.isCongested) {
            this.#syncAtMs = null;
            this.#pagesByMs = this.#pageDeadline();
            return { sync: { after: this.#inbox.cursor ?? "0", limit: 0, everyEntry: !this.#options.takesSnapshots } };
        }
        const rev = this.#inbox.untold();
        if (rev !== null && this.#ackAtMs <= nowMs) {
            this.#inbox.tell(rev);
            this.#ackAtMs = nowMs + this.#options.ackIntervalMs;
            return { ack: { rev } };
        }
        if (this.#unreadable === 0) {
            if ((this.#owesWatch || this.#owesAway) && state.queryPace.take(nowMs))
                return this.#presenceFrame();
            const query = this.#queries.next();
            if (query !== null && state.queryPace.take(nowMs)) {
                this.#queries.markSent(nowMs);
                return query;
            }
            const request = this.#outbox.next(state.user, this.#storedVersion);
            if (request !== null && state.sendPace.take(nowMs)) {
                this.#outbox.markSent(request);
                return request;
            }
        }
        if (this.#isBeatDue) {
            this.#isBeatDue = false;
            state.heartbeat.ask(nowMs);
            return { ping: { nonce: "0" } };
        }
        return null;
    }
    #tellPresenceAgain() {
        this.#owesWatch = this.#watched.length > 0;
        this.#owesAway = this.#isAway;
    }
    #presenceFrame() {
        if (this.#owesWatch) {
            this.#owesWatch = false;
            return { watchPresence: { users: this.#watched } };
        }
        this.#owesAway = false;
        return { setAway: { away: this.#isAway } };
    }
    #isSyncing() {
        return this.#syncAtMs !== null || this.#pagesByMs !== null;
    }
    #pageDeadline() {
        return this.#nowMs + this.#options.connectTimeoutMs;
    }
    // The end of a connection, and the next.
    /** The server does not keep to the protocol. */
    #breakOff(message) {
        this.#lose({ kind: "protocol", message }, "afterDelay");
    }
    #lose(why, reconnect, isUp = true) {
        const state = this.#state;
        if (isUp && (state.name === "connecting" || state.name === "greeting" || state.name === "open")) {
            this.#events.push({ kind: "disconnect" });
        }
        const lastedMs = state.name === "open" ? this.#nowMs - state.sinceMs : null;
        const atMs = this.#backoff.next(this.#nowMs, lastedMs, reconnect, this.#random);
        this.#forgetConnection();
        if (atMs === null) {
            this.#state = { name: "ended" };
            this.#events.push({ kind: "state", state: { name: "ended", why } });
        }
        else {
            this.#state = { name: "waiting", atMs };
            const { failures } = this.#backoff;
            this.#events.push({ kind: "state", state: { name: "waiting", retryAtMs: atMs, failures, why } });
        }
    }
    #forgetConnection() {
        this.#out = [];
        this.#isBeatDue = false;
        this.#lastError = null;
        this.#syncAtMs = null;
        this.#pagesByMs = null;
        this.#isHoleKnown = false;
        this.#unreadable = 0;
        this.#outbox.beginAgain();
        this.#queries.sendAgain();
    }
    #connect() {
        this.#state = { name: "connecting", deadlineMs: this.#nowMs + this.#options.connectTimeoutMs };
        const url = this.#nextUrl ?? this.#options.url;
        this.#nextUrl = null;
        this.#events.push({ kind: "state", state: { name: "connecting" } });
        this.#events.push({ kind: "connect", url, isTokenRefused: this.#isTokenRefused });
        this.#isTokenRefused = false;
    }
    /** Another server is believed if the token is as safe on the way there. */
    #safeUrl(to) {
        if (to.startsWith("wss://"))
            return to;
        return to.startsWith("ws://") && this.#options.url.startsWith("ws://") ? to : null;
    }
    /** Time does not go back, whatever the clock does. */
    #advance(nowMs) {
        this.#nowMs = Math.max(this.#nowMs, nowMs);
    }
}

// ---- client.ts

/**
 * The client: a {@link Machine} with a WebSocket, timers, a store and the application around it.
 *
 * A method whose request is answered gives a promise. It throws at once when the request was not taken (`outbox_full`
 * and what is wrong on the face of it), so that nothing is lost by a promise that nobody looks at; the promise is
 * rejected when the server refuses the request. Requests with a `clientId` are kept over reconnects and, with a store,
 * over restarts; then the answer is told by the events `accepted` and `rejected` alone.
 */
class Client {
    #options;
    #environment;
    #machine;
    #listeners = new Map();
    #requests = new Map();
    #queries = new Map();
    #state = { name: "idle" };
    #socket = null;
    #token;
    /** It has not been good yet. */
    #isTokenFresh = true;
    /** Counts connections, so that what is heard late from an older one is not taken for the present one's. */
    #attempt = 0;
    #inboxAge = 0;
    #stopTimer = () => { };
    #isPumping = false;
    #isStirred = false;
    #handling = null;
    #saving = null;
    /** A client that knows what its store has kept. It does nothing before {@link connect}. */
    static async open(options) {
        const { protocol } = new URL(options.url);
        if (protocol !== "ws:" && protocol !== "wss:") {
            throw new TypeError(`a WebSocket's URL begins with wss: or ws:, not ${protocol}`);
        }
        const kept = (await options.store?.load()) ?? { cursor: null, outbox: [] };
        return new Client(options, options.cursor === undefined ? kept : { ...kept, cursor: toId(options.cursor, "cursor") });
    }
    constructor(options, kept) {
        this.#options = options;
        this.#environment = options.environment ?? platform;
        this.#token = typeof options.token === "string" ? options.token : null;
        const machineOptions = {
            url: options.url,
            device: options.device ?? "",
            canRenewToken: typeof options.token === "function",
            takesSnapshots: options.onSnapshot !== undefined,
            kept,
            connectTimeoutMs: options.connectTimeoutMs ?? 15_000,
            backoffFirstMs: options.backoffFirstMs ?? 1_000,
            backoffMaxMs: options.backoffMaxMs ?? 60_000,
            ackIntervalMs: options.ackIntervalMs ?? 1_000,
            queryTimeoutMs: options.queryTimeoutMs ?? 15_000,
            outboxRequests: options.outboxRequests ?? 1_000,
            outboxBytes: options.outboxBytes ?? 4 << 20,
            queries: options.queries ?? 100,
            inboxEntries: options.inboxEntries ?? 10_000,
        };
        this.#machine = new Machine(machineOptions, this.#environment.random);
    }
    // The connection.
    get state() {
        return this.#state;
    }
    /** The last entry that has come; `null`: a new device that was never welcomed. */
    get cursor() {
        return this.#machine.cursor;
    }
    /** What the server allows a body to have. */
    get messageBytesMax() {
        return this.#machine.messageBytesMax;
    }
    /** Requests that wait to be accepted, also those of before a restart. */
    get outbox() {
        return this.#machine.outbox;
    }
    /** Calls `listener` for every event of this name; gives what stops that. */
    on(name, listener) {
        const listeners = this.#listeners.get(name) ?? new Set();
        this.#listeners.set(name, listeners);
        listeners.add(listener);
        return () => listeners.delete(listener);
    }
    /** Connects, now, and from here on again whenever the connection breaks. Also after the end, perhaps with another
     *  token if the old one was the reason. */
    connect(token) {
        if (token !== undefined) {
            this.#token = token;
            this.#isTokenFresh = true;
        }
        this.#machine.connect(this.#environment.nowMs());
        this.#pump();
    }
    /** The network, the user or the machine came back: does not wait any longer, or asks whether the server is there. */
    hurry() {
        this.#machine.hurry(this.#environment.nowMs());
        this.#pump();
    }
    /** Ends the connection. What waits for an answer fails with `closed`; what is in the outbox stays there, and in the
     *  store. The promise is kept when handler and store are done. */
    async close() {
        this.#machine.close(this.#environment.nowMs());
        this.#pump();
        const error = new RequestError("closed", "the client was closed before the answer came");
        for (const { reject } of [...this.#requests.values(), ...[...this.#queries.values()].flat()])
            reject(error);
        this.#requests.clear();
        this.#queries.clear();
        while (this.#handling ?? this.#saving)
            await (this.#handling ?? this.#saving);
    }
    /** Forgets how far this device is, after the end: the server said `cursor_ahead`, so its inbox is another one. */
    startOver() {
        this.#machine.startOver();
        this.#inboxAge += 1;
        this.#pump();
    }
    /** Everything up to `rev` is stored. Only with `acknowledge: "manually"`. */
    ack(rev) {
        this.#machine.handled(toId(rev, "rev"));
        this.#pump();
    }
    // Requests with a name.
    /** Sends a message; a text may be given as it is. The promise is kept when the message is durable. */
    send(conversation, body, options = {}) {
        const content = this.#content(body);
        const head = { ...this.#head(conversation, options), body: content };
        const { replyTo } = options;
        return this.#request({ send: replyTo === undefined ? head : { ...head, replyTo: toId(replyTo, "replyTo") } });
    }
    /** Replaces what a message of one's own says. */
    edit(conversation, seq, content, options = {}) {
        const head = this.#head(conversation, options);
        return this.#request({ edit: { ...head, seq: toId(seq, "seq"), content: this.#content(content) } });
    }
    /** Takes a message back. */
    delete(conversation, seq, options = {}) {
        return this.#request({ delete: { ...this.#head(conversation, options), seq: toId(seq, "seq") } });
    }
    /** Makes a group; `conversation` of the answer names it. */
    createGroup(title, members, options = {}) {
        const users = members.map((user) => toId(user, "member"));
        const clientId = this.#clientId(options);
        const { openHistory = false } = options;
        return this.#request({ createGroup: { clientId, title: checkText(title), members: users, openHistory } });
    }
    addMembers(conversation, users, options = {}) {
        const head = this.#head(conversation, options);
        return this.#request({ addMembers: { ...head, users: users.map((user) => toId(user, "user")) } });
    }
    removeMember(conversation, user, options = {}) {
        return this.#request({ removeMember: { ...this.#head(conversation, options), user: toId(user, "user") } });
    }
    leave(conversation, options = {}) {
        return this.#request({ leave: this.#head(conversation, options) });
    }
    rename(conversation, title, options = {}) {
        return this.#request({ rename: { ...this.#head(conversation, options), title: checkText(title) } });
    }
    setRole(conversation, user, role, options = {}) {
        return this.#request({ setRole: { ...this.#head(conversation, options), user: toId(user, "user"), role } });
    }
    /** For how many days a group keeps what is written in it; 0: as long as the server keeps everything. */
    setRetention(conversation, days, options = {}) {
        return this.#request({ setRetention: { ...this.#head(conversation, options), days: checkDays(days) } });
    }
    // Queries.
    /** A part of a conversation: the last messages before a `seq`, the first after one, or the last of all. */
    history(conversation, range = {}) {
        const { before, after, limit = 0 } = range;
        if (before !== undefined && after !== undefined)
            throw new RangeError("either before or after, not both");
        const head = { conversation: checkConversation(conversation), limit: checkLimit(limit) };
        const from = before !== undefined ? { before: toId(before, "before") } : {};
        const to = after !== undefined ? { after: toId(after, "after") } : {};
        return this.#query({ history: { ...head, ...from, ...to } });
    }
    /** How far everybody in a conversation has read. */
    receipts(conversation) {
        return this.#query({ receipts: { conversation: checkConversation(conversation) } });
    }
    /** The user has read up to this `seq`; the promise is kept when that is durable. */
    read(conversation, upTo) {
        const read = { conversation: checkConversation(conversation), upTo: toId(upTo, "upTo") };
        return this.#query({ read });
    }
    /** The user's conversations, as many at once as the server likes, behind that of this name. */
    conversations(options = {}) {
        const { after = "", limit = 0 } = options;
        if (after !== "")
            checkConversation(after);
        return this.#query({ conversations: { after, limit: checkLimit(limit) } });
    }
    /** What a group is called, and who is in it. */
    group(conversation) {
        return this.#query({ group: { conversation: checkConversation(conversation) } });
    }
    /** Which devices the user has. */
    devices() {
        return this.#query({ devices: {} });
    }
    /** Shuts a device out: its session is closed, and tokens made until now are worthless on it. Those that are left. */
    revokeDevice(device) {
        return this.#query({ revokeDevice: { device } });
    }
    /** The contacts, and those who are blocked: those with ids greater than `after`. */
    people({ after = "0", limit = 0 } = {}) {
        const people = { after: toId(after, "after"), limit: checkLimit(limit, 1_000) };
        return this.#query({ people });
    }
    /** Nothing passes any more between the user and this one, who cannot tell; settles once it is durable. */
    block(user) {
        return this.#query({ block: { user: toId(user, "user") } });
    }
    /** Takes a block back. What was written meanwhile stays hidden. */
    unblock(user) {
        return this.#query({ unblock: { user: toId(user, "user") } });
    }
    /** Counts a user among the contacts, or not any more. */
    setContact(user, contact) {
        return this.#query({ setContact: { user: toId(user, "user"), contact } });
    }
    /** Who may see the user's presence. */
    setPrivacy(presence) {
        return this.#query({ setPrivacy: { presence } });
    }
    /** The user is writing, or not any more; to be said every 3 s while that goes on. Without a connection it is not. */
    typing(conversation, stopped = false) {
        this.#machine.say({ typing: { conversation: checkConversation(conversation), stopped } });
        this.#pump();
    }
    /** Whose presence is to be told from now on: `presence` with each of them, then as it changes. Watch whom the view
     *  shows; connections to come are told too. */
    watchPresence(users) {
        const ids = users.map((user) => toId(user, "users"));
        if (new Set(ids).size !== ids.length)
            throw new TypeError("users: somebody stands there twice");
        this.#machine.watch(ids);
        this.#pump();
    }
    /** Nobody is at this device, or somebody is again. */
    setAway(away) {
        this.#machine.setAway(away);
        this.#pump();
    }
    // What is inside.
    #clientId({ clientId }) {
        return clientId === undefined ? this.#environment.newName() : checkClientId(clientId);
    }
    #head(conversation, options) {
        return { clientId: this.#clientId(options), conversation: checkConversation(conversation) };
    }
    #content(content) {
        return checkContent(typeof content === "string" ? { text: content } : content, this.#machine.messageBytesMax);
    }
    #request(frame) {
        const clientId = this.#machine.request(frame);
        const promise = new Promise((resolve, reject) => this.#requests.set(clientId, { resolve, reject }));
        return this.#begun(promise);
    }
    #query(frame) {
        const id = this.#machine.query(frame);
        const promise = new Promise((resolve, reject) => {
            this.#queries.set(id, [...(this.#queries.get(id) ?? []), { resolve, reject }]);
        });
        return this.#begun(promise);
    }
    #begun(promise) {
        // Whoever does not look at it hears of a refusal by an event; it must not end the process.
        promise.catch(() => { });
        this.#pump();
        return promise;
    }
    /** Does what the machine wants, until it wants nothing more; listeners that ask for more only make it go on. */
    #pump() {
        this.#isStirred = true;
        if (this.#isPumping)
            return;
        this.#isPumping = true;
        try {
            while (this.#isStirred) {
                this.#isStirred = false;
                this.#deliver();
                this.#save();
                for (let event = this.#machine.pollEvent(); event !== null; event = this.#machine.pollEvent())
                    this.#act(event);
                this.#transmit();
            }
        }
        finally {
            this.#isPumping = false;
        }
        this.#setTimer();
    }
    #setTimer() {
        this.#stopTimer();
        this.#stopTimer = () => { };
        const atMs = this.#machine.pollTimeout();
        if (atMs === null)
            return;
        // Rounded up: what comes too early would have to come again.
        this.#stopTimer = this.#environment.startTimer(Math.ceil(atMs - this.#environment.nowMs()), () => {
            this.#machine.handleTimeout(this.#environment.nowMs());
            this.#pump();
        });
    }
    #transmit() {
        const socket = this.#socket;
        if (socket === null)
            return;
        const nowMs = this.#environment.nowMs();
        for (let text = this.#machine.pollTransmit(nowMs); text !== null; text = this.#machine.pollTransmit(nowMs))
            socket.send(text);
    }
    #deliver() {
        if (this.#handling !== null || this.#state.name === "ended")
            return;
        const batch = this.#machine.pollBatch();
        if (batch === null)
            return;
        const age = this.#inboxAge;
        const done = () => {
            if (this.#options.acknowledge !== "manually" && age === this.#inboxAge)
                this.#machine.handled(batch.rev);
        };
        const failed = (error) => this.#machine.fail(this.#environment.nowMs(), error);
        try {
            const promise = "entries" in batch ? this.#options.onEntries(batch.entries) : this.#options.onSnapshot?.(batch.snapshot);
            if (isPromise(promise)) {
                this.#handling = promise.then(done, failed).then(() => {
                    this.#handling = null;
                    this.#pump();
                });
                return;
            }
            done();
        }
        catch (error) {
            failed(error);
        }
        this.#isStirred = true;
    }
    #save() {
        if (this.#saving !== null)
            return;
        const save = this.#machine.pollSave();
        if (save === null)
            return;
        const done = () => this.#machine.handleSaved(save, true);
        const failed = (error) => {
            this.#machine.handleSaved(save, false);
            this.#emit("storeFailed", { error });
        };
        try {
            const promise = this.#options.store?.save(save.kept);
            if (isPromise(promise)) {
                this.#saving = promise.then(done, failed).then(() => {
                    this.#saving = null;
                    this.#pump();
                });
                return;
            }
            done();
        }
        catch (error) {
            failed(error);
        }
        this.#isStirred = true;
    }
    #act(event) {
        this.#isStirred = true;
        switch (event.kind) {
            case "connect":
                void this.#connect(event.url, event.isTokenRefused);
                break;
            case "disconnect":
                this.#attempt += 1;
                this.#socket?.close();
                this.#socket = null;
                break;
            case "state":
                this.#state = this.#withWallTime(event.state);
                this.#emit("state", this.#state);
                break;
            case "accepted":
                this.#requests.get(event.accepted.clientId)?.resolve(event.accepted);
                this.#requests.delete(event.accepted.clientId);
                this.#emit("accepted", event.accepted);
                break;
            case "rejected":
                this.#requests.get(event.clientId)?.reject(event.error);
                this.#requests.delete(event.clientId);
                this.#emit("rejected", { clientId: event.clientId, error: event.error });
                break;
            case "answered":
                for (const { resolve } of this.#queries.get(event.id) ?? [])
                    resolve(event.answer);
                this.#queries.delete(event.id);
                break;
            case "failed":
                for (const { reject } of this.#queries.get(event.id) ?? [])
                    reject(event.error);
                this.#queries.delete(event.id);
                break;
            case "welcome":
                this.#isTokenFresh = false;
                this.#emit("welcome", event.welcome);
                break;
            case "live":
                this.#emit("live", { rev: event.rev });
                break;
            case "gap":
                this.#emit("gap", {});
                break;
            case "receipts":
                this.#emit("receipts", event.receipts);
                break;
            case "people":
                this.#emit("people", event.people);
                break;
            case "typing":
                this.#emit("typing", event.typing);
                break;
            case "presence":
                this.#emit("presence", event.users);
                break;
            case "refused":
                this.#emit("refused", event.refused);
                break;
            case "other":
                this.#emit("other", { name: event.name, content: event.content });
                break;
        }
    }
    async #connect(url, isTokenRefused) {
        this.#attempt += 1;
        const attempt = this.#attempt;
        const isPresent = () => attempt === this.#attempt;
        const lost = (code, reason) => {
            if (!isPresent())
                return;
            this.#socket = null;
            this.#machine.handleClose(this.#environment.nowMs(), code, reason);
            this.#pump();
        };
        try {
            const token = await this.#tokenAfter(isTokenRefused);
            if (!isPresent())
                return;
            const socket = this.#environment.connect(url, SUBPROTOCOL, {
                onOpen: () => {
                    if (!isPresent())
                        return;
                    this.#socket = socket;
                    this.#machine.handleOpen(this.#environment.nowMs(), token, this.#isTokenFresh);
                    this.#pump();
                },
                onText: (text) => {
                    if (!isPresent())
                        return;
                    this.#machine.handleMessage(this.#environment.nowMs(), text);
                    this.#pump();
                },
                onClose: lost,
            });
            this.#socket = socket;
        }
        catch (error) {
            // No token, or no such URL: as if the network had failed.
            lost(1006, String(error));
        }
    }
    async #tokenAfter(isRefused) {
        const { token: source } = this.#options;
        if (typeof source === "function" && isRefused)
            this.#token = null;
        if (this.#token === null) {
            if (typeof source === "string")
                return source;
            this.#token = await source();
            this.#isTokenFresh = true;
        }
        return this.#token;
    }
    #withWallTime(state) {
        if (state.name !== "waiting")
            return state;
        const leftMs = Math.max(state.retryAtMs - this.#environment.nowMs(), 0);
        return { ...state, retryAtMs: this.#environment.wallMs() + leftMs };
    }
    #emit(name, event) {
        for (const listener of this.#listeners.get(name) ?? []) {
            try {
                listener(event);
            }
            catch (error) {
                // The listener's own fault, reported as such; the client goes on.
                queueMicrotask(() => {
                    throw error;
                });
            }
        }
    }
}
function isPromise(value) {
    return typeof value === "object" && value !== null && "then" in value;
}

// ---- messages.ts

/**
 * What people say and what happens for them: the contents of inbox entries and histories, as in
 * `protocol/proto/holdfast/v1/chat.proto`, which explains each field. 64-bit numbers are {@link Id}s.
 */
function toBase64(bytes) {
    let binary = "";
    for (const byte of bytes)
        binary += String.fromCharCode(byte);
    return btoa(binary);
}
function fromBase64(text) {
    return Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (letter) => letter.charCodeAt(0));
}

// ---- store.ts

/**
 * Where a client keeps what has to survive a restart: how far it is, and what was not accepted yet.
 *
 * Each device needs a place of its own. `save` replaces what was there, whole or not at all.
 */
/** A store in `localStorage`, `sessionStorage`, or what looks like them. */
function webStore(area, key) {
    return {
        load() {
            const text = area.getItem(key);
            return text === null ? null : keptOf(JSON.parse(text));
        },
        save(kept) {
            area.setItem(key, JSON.stringify(kept));
        },
    };
}
/** Reads what was kept as JSON. Throws where it is spoilt: to go on without it would lose requests without a word. */
function keptOf(value) {
    const { cursor, outbox } = (value ?? {});
    const isCursor = cursor === null || (typeof cursor === "string" && isId(cursor));
    if (!isCursor || !Array.isArray(outbox) || !outbox.every(isNamedFrame)) {
        throw new TypeError("what was kept is neither a cursor nor an outbox");
    }
    return { cursor, outbox };
}
function isNamedFrame(value) {
    if (typeof value !== "object" || value === null)
        return false;
    const [content] = Object.values(value);
    return typeof content === "object" && content !== null && "clientId" in content && typeof content.clientId === "string";
}

export { Client, OutboxFullError, RequestError, compareIds, fromBase64, keptOf, platform, toBase64, webStore };
