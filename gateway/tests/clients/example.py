"""`docs/examples/chat.py` does what its page says: two of them chat while they and the server are stopped.

    example.py HOLDFAST DIRECTORY

HOLDFAST is the server's binary; data goes into DIRECTORY, which must not exist. Every line that was typed must be printed
once by both, in the same order, though one of the clients is killed and started again and so is the server.
"""

import json
import pathlib
import queue
import subprocess
import sys
import threading
import time

PATIENCE_SECONDS = 30
EXAMPLE = pathlib.Path(__file__).resolve().parents[3] / "docs/examples/chat.py"


class Process:
    """A process, and the lines that it prints."""

    def __init__(self, *command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.lines = queue.Queue()
        threading.Thread(target=lambda: [self.lines.put(line.strip()) for line in self.process.stdout], daemon=True).start()

    def next(self, wanted=""):
        """The next line with this in it."""
        while True:
            try:
                line = self.lines.get(timeout=PATIENCE_SECONDS)
            except queue.Empty:
                raise AssertionError(f"{self.process.args}: {wanted!r} did not come") from None
            if wanted in line:
                return line

    def type(self, line):
        self.process.stdin.write(line + "\n")

    def kill(self):
        self.process.kill()
        self.process.wait()


def main(holdfast, directory):
    directory = pathlib.Path(directory)
    data = directory / "data"

    def serve(listen):
        server = Process(holdfast, "serve", "--listen", listen, "--data", str(data))
        return server, server.next("http://").split("http://")[1].split("/")[0]

    def client(user, other):
        token = subprocess.check_output(
            [holdfast, "token", "--user", str(user), "--device", "terminal", "--data", str(data)], text=True
        ).strip()
        state = directory / f"{user}.json"
        return Process(sys.executable, str(EXAMPLE), f"ws://{address}/ws", token, f"@{other}", str(state))

    server, address = serve("127.0.0.1:0")
    ana, ben = client(1, 2), client(2, 1)
    try:
        seen = {ana: [], ben: []}
        for speaker, user, text in [(ana, "1", "hello"), (ben, "2", "hi"), (ana, "1", 'naïve "café" 👋')]:
            speaker.type(text)
            for reader in (ana, ben):
                seen[reader].append(reader.next(f"1:2 {user} "))
        # Written while the server is away.
        server.kill()
        ana.type("are you there?")
        server, _ = serve(address)
        for reader in (ana, ben):
            seen[reader].append(reader.next("are you there?"))
        # Written while the other client is away, which goes on from the cursor that it has written down.
        state = directory / "2.json"
        deadline = time.monotonic() + PATIENCE_SECONDS
        while json.loads(state.read_text())["cursor"] != "4":
            assert time.monotonic() < deadline, state.read_text()
        ben.kill()
        ana.type("and now?")
        seen[ana].append(ana.next("and now?"))
        again = client(2, 1)
        seen[again] = seen.pop(ben)
        ben = again
        seen[ben].append(ben.next())
        assert seen[ana] == seen[ben], seen
        assert len(set(seen[ana])) == 5, seen
    finally:
        for process in (ana, ben, server):
            process.kill()
    print("the example chats, over a killed server and a killed client")


main(*sys.argv[1:3])
