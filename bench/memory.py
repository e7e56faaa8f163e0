"""Memory of the server: idle with an empty table, and with 10,000 Workers in it."""

import json
import time
from pathlib import Path

from server import BenchError, Server, request

WORKERS = 10_000
# Settled means: three readings, a second apart, within this.
SETTLED_KIB = 256
SETTLE_SECONDS = 60


def resident(pid):
    """Resident and proportional set size of a process, KiB."""
    sizes = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("Rss", "Pss"):
            sizes[name] = int(rest.split()[0])
    return sizes


def children(pid):
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


def settled(server):
    readings = []
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        readings.append(resident(server.pid())["Rss"])
        last = readings[-3:]
        if len(last) == 3 and max(last) - min(last) <= SETTLED_KIB:
            break
        time.sleep(1)
    broker = [
        resident(pid)["Rss"] for pid in children(server.pid()) if Path(f"/proc/{pid}/comm").read_text().strip() == "nats-server"
    ]
    return {**resident(server.pid()), "nats_server": sum(broker), "readings": readings}


def measure(binary, results, report, quick=False):
    workers = 1_000 if quick else WORKERS
    with Server(binary) as server:
        idle = settled(server)
        server.stop()
        server.command("internal", "bench-fill", "--workers", str(workers))
        began = time.perf_counter()
        server.start()
        start_seconds = time.perf_counter() - began
        status, _ = request(server.listen, "GET", "/health", {"Host": "localhost"})
        if status != 200:
            raise BenchError(f"/health answers {status} with {workers} Workers")
        full = settled(server)
    rows = {"idle": idle, "workers": workers, "full": full, "start_seconds": round(start_seconds, 2)}
    (results / "memory.json").write_text(json.dumps(rows, indent=1) + "\n")
    report("memory   resident set of the server process (the broker, a child, apart); MiB")
    for name, row in [("idle", idle), (f"{workers} Workers", full)]:
        report(f"  {name:16} {row['Rss'] / 1024:7.1f}   nats-server {row['nats_server'] / 1024:6.1f}")
    each = (full["Rss"] - idle["Rss"]) * 1024 / workers
    report(f"  per Worker       {each:7.0f} bytes   start with {workers} Workers: {start_seconds:.1f} s")
