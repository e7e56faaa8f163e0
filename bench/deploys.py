"""POST /deploy to live: how long until the Worker's own address answers with the new content."""

import http.client
import json
import time

from machine import percentile
from server import Api, BenchError, Server, worker_host

FILES = 20
# The poller shares the machine with what it measures; 2 ms is its error.
POLL_SECONDS = 0.002
LIVE_SECONDS = 60


def site(mark, all_new=False):
    """Twenty files of a small site; `mark` makes each deployment's start page its own, or every file."""
    note = f"/* {mark} */" if all_new else ""
    files = [{"path": "index.html", "content": f"<!doctype html><title>bench</title><p>{mark}</p>\n"}]
    for number in range(1, FILES - 1):
        body = f"<!doctype html><title>page {number}</title>" + "<p>Some words of a page.</p>\n" * 60 + note
        files.append({"path": f"pages/{number}.html", "content": body})
    files.append({"path": "style.css", "content": "body { font: 18px/1.5 system-ui }\n" * 40 + note})
    return files


def until_live(connection, host, mark):
    deadline = time.monotonic() + LIVE_SECONDS
    wanted = f"<p>{mark}</p>".encode()
    while time.monotonic() < deadline:
        connection.request("GET", "/", headers={"Host": host})
        answer = connection.getresponse()
        if wanted in answer.read() and answer.status == 200:
            return
        time.sleep(POLL_SECONDS)
    raise BenchError(f"{host} did not show {mark} within {LIVE_SECONDS} s")


def measure(binary, results, report, quick=False):
    count, warm = (10, 2) if quick else (100, 5)
    rows = []
    with Server(binary) as server:
        api = Api(server)
        project = api.project("bench deploy")
        host = worker_host(project)
        address, _, port = server.listen.rpartition(":")
        front = http.client.HTTPConnection(address, int(port), timeout=30)
        for number in range(warm + count):
            mark = f"mark-{number}-{time.time_ns()}"
            start = time.perf_counter()
            deployment = api.deploy(project, site(mark))
            accepted = time.perf_counter()
            until_live(front, host, mark)
            live = time.perf_counter()
            api.completed(deployment)
            completed = time.perf_counter()
            if number >= warm:
                times = {"accepted": accepted - start, "live": live - start, "completed": completed - start}
                rows.append({"deployment": deployment, **{k: round(v * 1000, 2) for k, v in times.items()}})
    (results / "deploy.json").write_text(json.dumps(rows, indent=1) + "\n")
    report(f"deploy   {FILES} files, no build, {count} one after another on an idle server; ms")
    for name, what in [("accepted", "POST answered 202"), ("live", "live on its address"), ("completed", "status completed")]:
        values = [row[name] for row in rows]
        figures = "   ".join(f"{k} {percentile(values, s):8.1f}" for k, s in [("p50", 0.5), ("p99", 0.99), ("max", 1)])
        report(f"  {what:20} {figures}")
    report("  goal: live p50 <= 150, p99 <= 500")
