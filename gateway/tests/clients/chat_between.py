"""Lets two clients that we did not write chat with each other through a running server, and keeps the books.

    chat_between.py URL LEFT_TOKEN RIGHT_TOKEN --left COMMAND --right COMMAND [--messages N]

The tokens name two users; each COMMAND is one of the clients beside this file, without its arguments. What is checked:
every message is accepted once with a dense `seq`, every user's inbox has every message once, `rev` without holes,
both see the same order, a resend gives the same answer and is seen by nobody, a reconnect with a cursor brings
exactly what came after it, and a close is answered with 1000. Needs nothing but Python.
"""

import argparse
import base64
import json
import queue
import shlex
import subprocess
import sys
import threading

PATIENCE_SECONDS = 20

# What people send: other scripts, an emoji of several code points, a line break, what JSON must escape, much of it.
TEXTS = ["hi", "naïve café", "你好，世界", "👩‍👩‍👧‍👦 and 🇺🇳", "two\nlines", 'quotes " and \\ and \u0001', "x" * 4000]


def user_of(token):
    claims = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["sub"]


class Client:
    """A client's process, and what it has said so far."""

    def __init__(self, command, url, token):
        self.command = command
        self.user = user_of(token)
        self.process = subprocess.Popen(
            [*shlex.split(command), url, token], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.frames = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.frames.put(json.loads(line))
        self.frames.put(None)

    def send(self, **frame):
        self.process.stdin.write(json.dumps(frame, ensure_ascii=False) + "\n")
        self.process.stdin.flush()

    def next(self, kind):
        """The next frame, which must be of this kind."""
        frame = self.any()
        assert kind in frame, f"{self.command}: expected {kind}, got {frame}"
        return frame[kind]

    def any(self):
        """The next frame but for receipts, which come within a second or so, if there is room."""
        while True:
            try:
                frame = self.frames.get(timeout=PATIENCE_SECONDS)
            except queue.Empty:
                raise AssertionError(f"{self.command}: nothing came for {PATIENCE_SECONDS} s") from None
            assert frame is not None, f"{self.command}: ended with {self.process.wait()}"
            if "receipts" not in frame:
                return frame

    def collect(self, accepted, messages):
        """Reads until so many answers and so many inbox entries have come; both may come in any mixture."""
        answers, entries = [], []
        while len(answers) < accepted or len(entries) < messages:
            frame = self.any()
            if "accepted" in frame:
                answers.append(frame["accepted"])
            elif "event" in frame:
                entries.append(frame["event"])
            elif "page" in frame:
                entries.extend(frame["page"].get("events", []))
            else:
                raise AssertionError(f"{self.command}: unexpected {frame}")
        return answers, entries

    def close(self):
        self.process.stdin.close()
        while "closed" not in (frame := self.any()):
            assert "error" not in frame, frame
        assert frame["closed"] == 1000, f"{self.command}: closed with {frame['closed']}"
        assert self.process.wait(PATIENCE_SECONDS) == 0


def number(text):
    """A 64-bit number, which JSON carries as a string."""
    assert isinstance(text, str), f"{text!r} should be a string"
    return int(text)


def start(command, url, token):
    """A client whose session is live, and the last `rev` of its inbox."""
    client = Client(command, url, token)
    welcome = client.next("welcome")
    assert welcome["user"] == client.user, welcome
    head, cursor = (number(welcome.get(name, "0")) for name in ("head", "cursor"))
    assert head == cursor, f"{command}: user {client.user} has unread messages; take one that has none"
    client.send(sync={"after": str(head)})
    page = client.next("page")
    assert page.get("live") is True and not page.get("events"), page
    return client, head


def check_books(client, peer, head, answers, entries, count):
    sent = {answer["clientId"]: answer for answer in answers}
    assert len(sent) == len(answers) == count, f"{client.command}: {len(sent)} of {count} accepted"
    revs = [number(entry["rev"]) for entry in entries]
    assert revs == list(range(head + 1, head + 1 + 2 * count)), f"{client.command}: holes in {revs}"
    messages = [entry["entry"]["message"] for entry in entries]
    seqs = [number(message["seq"]) for message in messages]
    assert seqs == list(range(seqs[0], seqs[0] + 2 * count)), f"{client.command}: seq {seqs}"
    for message in messages:
        assert message["sender"] in (client.user, peer.user), message
        if message["sender"] == client.user:
            answer = sent[message["clientId"]]
            assert (answer["messageId"], answer["seq"]) == (message["messageId"], message["seq"])
    return messages


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("left_token")
    parser.add_argument("right_token")
    parser.add_argument("--left", required=True)
    parser.add_argument("--right", required=True)
    parser.add_argument("--messages", type=int, default=50, help="from each side")
    options = parser.parse_args()

    left, left_head = start(options.left, options.url, options.left_token)
    right, right_head = start(options.right, options.url, options.right_token)
    # Unique over runs against one data directory: revs never come again.
    run = f"{left.user}-{left_head}"

    for index in range(options.messages):
        text = TEXTS[index % len(TEXTS)]
        for client, peer in ((left, right), (right, left)):
            name = f"{run}-{client.user}-{index}"
            client.send(send={"clientId": name, "conversation": f"@{peer.user}", "body": {"text": f"{name} {text}"}})
    seen = []
    for client, peer, head in ((left, right, left_head), (right, left, right_head)):
        answers, entries = client.collect(options.messages, 2 * options.messages)
        seen.append(check_books(client, peer, head, answers, entries, options.messages))
    strip = lambda messages: [(m["seq"], m["messageId"], m["sender"], m["body"]["text"]) for m in messages]
    assert strip(seen[0]) == strip(seen[1]), "the two saw different conversations"
    for message in seen[0]:
        index = int(message["clientId"].rsplit("-", 1)[1])
        expected = f"{message['clientId']} {TEXTS[index % len(TEXTS)]}"
        assert message["body"]["text"] == expected, message

    # Once: the same message again gives the same answer, and nobody sees it. The ping shows that nothing follows.
    again = next(message for message in seen[0] if message["sender"] == left.user)
    left.send(send={"clientId": again["clientId"], "conversation": f"@{right.user}", "body": again["body"]})
    answer = left.next("accepted")
    assert (answer["messageId"], answer["seq"]) == (again["messageId"], again["seq"]), (answer, again)
    for client in (left, right):
        client.send(ping={"nonce": "7"})
        assert client.next("pong")["nonce"] == "7"

    # Complete: what comes while a device is away is there when it comes back, from the cursor that it has moved.
    last_seen = right_head + 2 * options.messages
    right.send(ack={"rev": str(last_seen)})
    right.close()
    left.send(send={"clientId": f"{run}-late", "conversation": f"@{right.user}", "body": {"text": "are you there?"}})
    left.collect(1, 1)
    back = Client(options.right, options.url, options.right_token)
    welcome = back.next("welcome")
    assert (number(welcome["cursor"]), number(welcome["head"])) == (last_seen, last_seen + 1), welcome
    page = back.next("page")
    assert page.get("live") is True, page
    assert [number(event["rev"]) for event in page["events"]] == [last_seen + 1], page
    assert page["events"][0]["entry"]["message"]["body"]["text"] == "are you there?", page
    back.send(ping={"nonce": "8"})
    assert back.next("pong")["nonce"] == "8"

    left.close()
    back.close()
    print(f"{2 * options.messages + 1} messages between {options.left!r} and {options.right!r}")


if __name__ == "__main__":
    try:
        main()
    except AssertionError as error:
        sys.exit(f"chat_between: {error}")
