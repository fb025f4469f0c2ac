"""Looks whether a report of `holdfast-load million` has what its readers rely on: million.py REPORT.json"""

import json
import sys

FIELDS = """
schema verdict
connections.target connections.opened connections.held connections.lost
messages.sent messages.acked messages.delivered messages.lost messages.duplicated messages.reordered
server.bytes_per_connection.user server.bytes_per_connection.kernel server.bytes_per_connection.total
server.total_bytes server.idle_cpu_us_per_connection_second
latency_us.accepted.p50 latency_us.accepted.p99 latency_us.accepted.max
latency_us.delivered.p50 latency_us.delivered.p99 latency_us.delivered.max
seconds.ramp seconds.hold seconds.total
""".split()

with open(sys.argv[1]) as file:
    report = json.load(file)
missing = []
for field in FIELDS:
    value = report
    for name in field.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if value is None:
        missing.append(field)
if missing:
    sys.exit(f"{sys.argv[1]} lacks {', '.join(missing)}")
if (report["schema"], report["verdict"]) != (1, "pass"):
    sys.exit(f"schema {report['schema']}, verdict {report['verdict']}")
