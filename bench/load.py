"""Sends load and reads what it cost: wrk, the WebSocket client, processor time from /proc.

Knows nothing of who is measured. Loopback only; each run is bounded by its seconds.
"""

import json
import os
import re
import resource
import subprocess
import time
from pathlib import Path

from server import BenchError

TICKS = os.sysconf("SC_CLK_TCK")
UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}
# Nothing on loopback takes that long unless it hangs.
ANSWER_SECONDS = 60


def cores():
    """(server, load, origin): the origin shares the load's processor where there is no third."""
    found = sorted(os.sched_getaffinity(0))
    if len(found) < 2:
        raise BenchError("two processors are needed: one for the server, one for the load")
    return str(found[0]), str(found[1]), str(found[2] if len(found) > 2 else found[1])


def cpu_seconds(pids):
    """Of all threads of these processes, kernel included."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def own_seconds():
    """What ended children of this process have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def wrk(core, seconds, url, host=None, connections=64, script=None, arguments=()):
    command = ["taskset", "-c", core, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
    command += ["--timeout", f"{ANSWER_SECONDS}s"]
    if host:
        command += ["-H", f"Host: {host}"]
    if script:
        command += ["-s", str(script)]
    command += [url, *(["--", *arguments] if arguments else [])]
    limit = seconds + 2 * ANSWER_SECONDS
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    text = done.stdout
    if done.returncode != 0 or "Requests/sec" not in text:
        raise BenchError(f"wrk ended with code {done.returncode} on {url}: {text[-400:]}{done.stderr[-400:]}")

    def milliseconds(share):
        found = re.search(rf"^\s+{share}%\s+([\d.]+)(us|ms|s|m)", text, re.M)
        return float(found.group(1)) * UNITS[found.group(2)] if found else 0.0

    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    return {
        "requests": int(re.search(r"(\d+) requests in", text).group(1)),
        "rate": float(re.search(r"Requests/sec:\s+([\d.]+)", text).group(1)),
        "p50_ms": milliseconds(50),
        "p99_ms": milliseconds(99),
        "errors": (int(refused.group(1)) if refused else 0) + (sum(map(int, broken.groups())) if broken else 0),
        "raw": text,
    }


def sockets(core, binary, seconds, address, host, path, connections):
    command = ["taskset", "-c", core, str(binary), "sockets", address, host, path, str(connections), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    if done.returncode != 0:
        raise BenchError(f"the WebSocket client ended with code {done.returncode}: {done.stderr[-400:]}")
    figures = json.loads(done.stdout)
    return {
        "requests": figures["trips"],
        "rate": figures["trips"] / seconds,
        "p50_ms": figures["p50_us"] / 1000,
        "p99_ms": figures["p99_us"] / 1000,
        "errors": figures["errors"],
        "raw": done.stdout,
    }


def quiet(pids, seconds=5):
    """Waits until what the run before left in flight is done: these processes use next to nothing."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        before = cpu_seconds(pids)
        time.sleep(0.2)
        if cpu_seconds(pids) - before <= 0.01:
            return


def timed(run, server_pids, load_pids):
    """Runs one load and adds what a request cost its server, and how busy the load's processor was."""
    quiet([*server_pids, *load_pids])
    before, load_before, began = cpu_seconds(server_pids), cpu_seconds(load_pids) + own_seconds(), time.monotonic()
    row = run()
    used, elapsed = cpu_seconds(server_pids) - before, time.monotonic() - began
    load_used = cpu_seconds(load_pids) + own_seconds() - load_before
    row["cpu_us"] = round(used * 1e6 / max(1, row["requests"]), 2)
    row["server_busy"] = round(used / elapsed, 2)
    row["load_busy"] = round(load_used / elapsed, 2)
    return row
