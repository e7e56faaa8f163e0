"""The front door beside nginx, HAProxy and Caddy: the same origin, the same files, the same processors, interleaved.

BENCH_CASES names beginnings of cases ("static,proxy small") for a look at these alone.
"""

import base64
import json
import os
from contextlib import ExitStack
from pathlib import Path

import load
from machine import median
from rivals import ANSWER, BLOB, SMALL_ANSWER, SOCKET, UPLOAD, Caddy, Haproxy, Helper, Nginx, Origin
from server import Api, BenchError, Server, request, upstream, wait_until, worker_host

SMALL, LARGE = "/small.html", "/large.bin"
CONNECTIONS = (64, 512)
UPLOAD_LUA = Path(__file__).resolve().parent / "upload.lua"

# Who takes part; HAProxy serves no files. The goal: rates at least these parts of the others'.
CASES = {
    "static 1.2 kB": {"path": SMALL, "host": "site", "who": ("libra", "nginx", "caddy")},
    "static 1 MiB": {"path": LARGE, "host": "site", "who": ("libra", "nginx", "caddy")},
    "proxy small": {"path": ANSWER, "host": "origin", "who": ("libra", "nginx", "haproxy", "caddy")},
    "proxy 1 MiB": {"path": BLOB, "host": "origin", "who": ("libra", "nginx", "haproxy", "caddy")},
    "upload 10 MiB": {"path": UPLOAD, "host": "helper", "who": ("libra", "nginx", "haproxy", "caddy")},
    "websocket echo": {"path": SOCKET, "host": "helper", "who": ("libra", "nginx", "haproxy", "caddy")},
}
GOALS = {"static": ("nginx", 1.0), "proxy": ("haproxy", 1.0), "upload": ("haproxy", 1.0), "websocket": ("haproxy", 1.0)}


# The others write no access log here, so neither does Libra.
LIKE_THEIRS = {"LIBRA__LOG__ACCESS__ENABLED": "false"}

def content():
    small = "<!doctype html><title>small</title>\n" + "<p>Twelve hundred bytes of a page.</p>\n" * 31
    return {SMALL: small.encode(), LARGE: os.urandom(2**20)}


def helper_binary(binary):
    helper = binary.parent / "examples" / "bench-origin"
    if not helper.exists():
        raise BenchError(f"{helper} is missing; `make bench-front-door` builds it")
    return helper


def encoded(files):
    return [
        {"path": path[1:], "content": base64.b64encode(body).decode(), "encoding": "base64"}
        for path, body in files.items()
    ]


class Libra:
    """Libra as one more that takes part: three Workers, one of files, two with an origin."""

    name = "libra"

    def __init__(self, server, files, origin, helper):
        self.server, self.address = server, server.listen
        api = Api(server)
        site = api.project("bench site")
        page = {"path": "index.html", "content": "<!doctype html><title>bench</title>\n"}
        api.completed(api.deploy(site, [*encoded(files), page]), every=0.1)
        self.hosts = {"site": worker_host(site)}
        for name, target in (("origin", origin), ("helper", helper)):
            project = api.project(f"bench {name}")
            upstream(api, project, f"http://{target.address}")
            self.hosts[name] = worker_host(project)
        for name, path in (("origin", ANSWER), ("helper", UPLOAD)):
            wait_until(f"the Worker with the {name} answers", 30, lambda n=name, p=path: self.get(n, p)[0] == 200, 0.1)

    def get(self, name, path):
        return request(self.address, "GET", path, {"Host": self.hosts[name]})

    def pids(self):
        return [self.server.pid()]


def measure(binary, results, report, quick=False):
    server_core, load_core, origin_core = load.cores()
    rounds, seconds = (1, 2) if quick else (5, 5)
    wanted = tuple(os.environ.get("BENCH_CASES", "").split(","))
    cases = {case: about for case, about in CASES.items() if case.startswith(wanted)}
    files = content()
    helper = helper_binary(binary)
    with ExitStack() as stack:
        origin = stack.enter_context(Origin(origin_core, {BLOB: files[LARGE]}))
        sink = stack.enter_context(Helper(origin_core, helper))
        behind = {"origin": origin.address, "helper": sink.address}
        rivals = [stack.enter_context(kind(server_core, files, **behind)) for kind in (Nginx, Haproxy, Caddy)]
        server = stack.enter_context(Server(binary, cores=server_core, settings=LIKE_THEIRS))
        libra = Libra(server, files, origin, sink)
        sides = {side.name: side for side in (libra, *rivals)}
        same_bytes(sides, files)
        load_pids = [*origin.pids(), *sink.pids()]
        rows = []
        for number in range(rounds):
            for case, about in cases.items():
                for connections in CONNECTIONS:
                    # Who goes first changes, so that drift of the machine hits all alike.
                    who = [sides[name] for name in about["who"]]
                    turn = number % len(who)
                    for side in who[turn:] + who[:turn]:
                        host = side.hosts[about["host"]] if side is libra else side.address
                        run = runner(case, about, side, host, load_core, helper, connections, seconds)
                        row = load.timed(run, side.pids(), load_pids)
                        name = f"front-door-{number}-{side.name}-{case.replace(' ', '_')}-{connections}.txt"
                        (results / name).write_text(row.pop("raw"))
                        rows.append({"round": number, "case": case, "connections": connections, "server": side.name, **row})
                        (results / "front-door.json").write_text(json.dumps(rows, indent=1) + "\n")
    report(
        f"front door  one processor for the server, load and origin on {'another' if load_core == origin_core else 'two others'},"
        f" {seconds} s a run, {rounds} interleaved rounds; medians"
    )
    for case, about in cases.items():
        for connections in CONNECTIONS:
            summarize(rows, case, about["who"], connections, report)


def runner(case, about, side, host, core, helper, connections, seconds):
    if case.startswith("websocket"):
        return lambda: load.sockets(core, helper, seconds, side.address, host, about["path"], connections)
    script = UPLOAD_LUA if case.startswith("upload") else None
    # So many large bodies at once need time to come to an end.
    if script:
        seconds *= 4 if connections > 64 else 2
    url = f"http://{side.address}{about['path']}"
    return lambda: load.wrk(core, seconds, url, host=host, connections=connections, script=script)


def same_bytes(sides, files):
    wanted = {SMALL: files[SMALL], LARGE: files[LARGE], BLOB: files[LARGE], ANSWER: SMALL_ANSWER.encode()}
    for case, about in CASES.items():
        body = wanted.get(about["path"])
        for name in about["who"] if body else ():
            side = sides[name]
            host = side.hosts[about["host"]] if name == "libra" else side.address
            answer = request(side.address, "GET", about["path"], {"Host": host})
            if answer != (200, body):
                raise BenchError(f"{name} serves other bytes for {case} (status {answer[0]}): {answer[1][:300]!r}")


def summarize(rows, case, who, connections, report):
    figures = {}
    for name in who:
        chosen = [r for r in rows if (r["server"], r["case"], r["connections"]) == (name, case, connections)]
        keys = ("rate", "p50_ms", "p99_ms", "cpu_us", "load_busy", "errors")
        figures[name] = {key: median([row[key] for row in chosen]) for key in keys}
        figures[name]["errors"] = sum(row["errors"] for row in chosen)
        f = figures[name]
        low, high = min(row["rate"] for row in chosen), max(row["rate"] for row in chosen)
        report(
            f"  {case:14} {connections:4}  {name:8} {f['rate']:9.0f}/s ({low:.0f}-{high:.0f})   p50 {f['p50_ms']:8.2f}   p99 {f['p99_ms']:8.2f} ms"
            f"   {f['cpu_us']:8.1f} us CPU   load busy {f['load_busy']:.2f}{'   ERRORS ' + str(f['errors']) if f['errors'] else ''}"
            f"{'' if f['rate'] else '   (half of the runs finished no request)'}"
        )
    ours = figures["libra"]
    goal_name, goal = GOALS[case.split(" ")[0]]
    for name in who[1:]:
        rate = ours["rate"] / figures[name]["rate"] if figures[name]["rate"] else float("nan")
        cpu = figures[name]["cpu_us"] / ours["cpu_us"] if ours["cpu_us"] else float("nan")
        p99 = ours["p99_ms"] / figures[name]["p99_ms"] if figures[name]["p99_ms"] else float("nan")
        aim = 2.0 if name == "caddy" else goal if name == goal_name else None
        report(
            f"  {'':14} {'':4}  of {name:8} rate {rate:.2f}   by CPU {cpu:.2f}   p99 {p99:.2f} of theirs"
            f"{f'   (goal: rate or CPU >= {aim}, p99 <= 1)' if aim else ''}"
        )
