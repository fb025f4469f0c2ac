"""Runs Autobahn|Testsuite and judges its report: every case OK or informational, none missing, none non-strict.

    autobahn.py fuzzingclient DIRECTORY AGENT URL       the suite is the client of our server
    autobahn.py fuzzingserver DIRECTORY AGENT COMMAND   the suite is the server; COMMAND is `holdfast-load`

DIRECTORY has the suite's interpreter (python/bin/python) and takes specifications and reports. Needs nothing else.
"""

import collections
import json
import os
import shutil
import socket
import subprocess
import sys

# Sections 12 and 13 test compression, which is not negotiated.
CASES = [f"{section}.*" for section in (1, 2, 3, 4, 5, 6, 7, 9, 10)]
CASES_COUNT = 301
GOOD = {"OK", "INFORMATIONAL"}


def suite(directory, mode, spec):
    reports = os.path.join(directory, f"reports-{mode}-{spec.pop('name')}")
    shutil.rmtree(reports, ignore_errors=True)
    spec.update({"outdir": reports, "cases": CASES, "exclude-cases": [], "exclude-agent-cases": {}})
    path = reports + ".json"
    with open(path, "w") as file:
        json.dump(spec, file)
    command = [
        os.path.join(directory, "python/bin/python"),
        *("-W", "ignore", "-u", "-m", "autobahntestsuite.wstest"),
        *("-m", mode, "-s", path),
    ]
    return reports, command


def judge(reports):
    """Prints what is not good; true when all is."""
    with open(os.path.join(reports, "index.json")) as file:
        (cases,) = json.load(file).values()
    counts = collections.Counter(case["behavior"] for case in cases.values())
    bad = {
        name: case
        for name, case in cases.items()
        if case["behavior"] not in GOOD or case["behaviorClose"] not in GOOD
    }
    for name, case in sorted(bad.items()):
        print(f"  case {name}: {case['behavior']}, close {case['behaviorClose']} (see {reports})")
    if len(cases) != CASES_COUNT:
        print(f"  {len(cases)} cases ran instead of {CASES_COUNT}")
    summary = ", ".join(f"{count} {behavior}" for behavior, count in sorted(counts.items(), reverse=True))
    print(f"{os.path.basename(reports)}: {len(cases)} cases: {summary}")
    return not bad and len(cases) == CASES_COUNT


def fuzzingclient(directory, agent, url):
    spec = {"name": agent, "servers": [{"agent": agent, "url": url}]}
    reports, command = suite(directory, "fuzzingclient", spec)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=900)
    return judge(reports)


def fuzzingserver(directory, agent, load):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"ws://127.0.0.1:{port}"
    reports, command = suite(directory, "fuzzingserver", {"name": agent, "url": url})
    with open(reports + ".log", "w") as log:
        # It would also serve its own pages on 8080.
        server = subprocess.Popen([*command, "--webport", "0"], stdout=log, stderr=log)
    try:
        await_listener(server, port)
        subprocess.run([load, "autobahn", url, "--agent", agent], check=True, timeout=900)
    finally:
        server.terminate()
        server.wait()
    return judge(reports)


def await_listener(server, port):
    """The suite does not say when it listens, so the port is tried until it answers."""
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            try:
                server.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
            sys.exit(f"the suite's server ended with {server.returncode}")
    sys.exit("the suite's server did not listen within a minute")


if __name__ == "__main__":
    mode, directory, *rest = sys.argv[1:]
    good = {"fuzzingclient": fuzzingclient, "fuzzingserver": fuzzingserver}[mode](directory, *rest)
    sys.exit(0 if good else 1)
