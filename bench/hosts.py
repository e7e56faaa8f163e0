"""Many hosts: what a lookup costs, what a request costs among a million, how soon a change is seen, and whether a
thousand switches under load are felt by anybody."""

import json
import socket
import subprocess
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import load
from front_door import encoded, helper_binary
from machine import median, percentile
from memory import resident
from rivals import SOCKET, Helper
from server import Api, BenchError, Server, request, switch, upstream, wait_until, worker_host

COUNTS = (100, 10_000, 1_000_000)
WORKERS = 100
ASKED = 20_000
# A server reads its whole table before it is ready.
LOAD_SECONDS = 900
SOCKETS = 500
HOSTS_LUA = Path(__file__).resolve().parent / "hosts.lua"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def measure(binary, results, report, quick=False):
    counts = (100, 100_000) if quick else COUNTS
    figures = {"tables": tables(binary, counts, report)}
    server_core, load_core, origin_core = load.cores()
    with ExitStack() as stack:
        few = stack.enter_context(filled(binary, counts[0], server_core, report))
        many = stack.enter_context(filled(binary, counts[-1], server_core, report))
        figures["requests"] = per_request(few, many, counts, load_core, report, quick)
        few.stop()
        figures["visible"] = visible(many, counts[-1], 100 if quick else 1_000, report)
        sink = stack.enter_context(Helper(origin_core, helper_binary(binary)))
        figures["switches"] = switches(many, sink, load_core, 100 if quick else 1_000, report)
    (results / "hosts.json").write_text(json.dumps(figures, indent=1) + "\n")


def tables(binary, counts, report):
    """The routing table alone, in a process of its own."""
    rows = []
    report("hosts    the routing table alone: half Workers, half custom domains; one thread looks, another changes")
    for count in counts:
        command = [str(binary), "internal", "bench-hosts", "--hosts", str(count)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode != 0:
            raise BenchError(f"bench-hosts ended with code {done.returncode}: {done.stderr[-400:]}")
        row = json.loads(done.stdout)
        rows.append(row)
        report(
            f"  {count:9} hosts   lookup {row['hit_ns']:6.0f} ns, of an unknown host {row['miss_ns']:6.0f} ns   {row['bytes_per_host']:5} bytes per host"
            f"   change seen p50 {row['visible_p50_us']} us, p99 {row['visible_p99_us']} us"
        )
    return rows


def filled(binary, count, core, report):
    """A server with this many custom domains in its table, not yet entered."""
    server = Server(binary, cores=core)
    try:
        server.start()
        server.stop()
        began = time.monotonic()
        workers = min(WORKERS, count)
        server.command("internal", "bench-fill", "--workers", str(workers), "--domains", str(count), seconds=1800)
        filled_in = time.monotonic() - began
        began = time.monotonic()
        server.start(seconds=LOAD_SECONDS)
        # Ready is when the whole table is there; a request proves it.
        host = f"www.customer-{count - 1}.example"
        wait_until("the last host answers", 600, lambda: request(server.listen, "GET", "/", {"Host": host})[0] == 200, 0.1)
        size = resident(server.pid())["Rss"] / 1024
        report(f"  {count:9} domains of {workers} Workers: filled in {filled_in:.0f} s, ready after {time.monotonic() - began:.1f} s, {size:.0f} MiB resident")
    except BaseException:
        server.__exit__()
        raise
    return Filled(server)


class Filled:
    """Entered without being started again."""

    def __init__(self, server):
        self.server = server

    def __enter__(self):
        return self.server

    def __exit__(self, *ends):
        self.server.__exit__(*ends)


def per_request(few, many, counts, core, report, quick):
    rounds, seconds = (2, 2) if quick else (7, 5)
    rows = []
    sides = [(counts[0], few), (counts[-1], many)]
    for number in range(rounds):
        for count, server in sides if number % 2 == 0 else sides[::-1]:
            url = f"http://{server.listen}/"
            asked = (str(count), str(min(count, ASKED)))
            run = lambda u=url, a=asked: load.wrk(core, seconds, u, connections=64, script=HOSTS_LUA, arguments=a)  # noqa: E731
            row = load.timed(run, [server.pid()], [])
            row.pop("raw")
            rows.append({"round": number, "hosts": count, **row})
    cost = {}
    for count, _ in sides:
        chosen = [row for row in rows if row["hosts"] == count]
        cost[count] = median([row["cpu_us"] for row in chosen])
        report(
            f"  {count:9} hosts   {median([row['rate'] for row in chosen]):9.0f} req/s   {cost[count]:.2f} us CPU per request"
            f"   p99 {median([row['p99_ms'] for row in chosen]):.2f} ms   errors {sum(row['errors'] for row in chosen)}"
        )
    ratio = cost[counts[-1]] / cost[counts[0]] if cost[counts[0]] else float("nan")
    report(f"  CPU per request with {counts[-1]} hosts is {ratio:.3f} of that with {counts[0]}   (goal <= 1.05)")
    return rows


class Page:
    """The page of one Worker on a connection of its own, asked again and again."""

    def __init__(self, address, host):
        name, _, port = address.rpartition(":")
        self.socket = socket.create_connection((name, int(port)), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ask = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()

    def get(self):
        self.socket.sendall(self.ask)
        data = self.socket.recv(65536)
        while b"\r\n\r\n" not in data:
            data += self.socket.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        while len(body) < length:
            body += self.socket.recv(65536)
        return body


def two_versions(api, name):
    """A project with two versions; the ids by what their page says."""
    project = api.project(name)
    versions = {}
    for page in (b"one", b"two"):
        deployment = api.deploy(project, encoded({"/index.html": page}))
        api.completed(deployment, every=0.1)
        versions[page] = deployment
    return project, versions


def visible(server, count, changes, report):
    """From the order of a switch, and from its answer, until the front door shows the other version."""
    api = Api(server)
    project, versions = two_versions(api, "bench visible")
    page = Page(server.listen, worker_host(project))
    seen, stop = {}, threading.Event()

    def look():
        last = None
        while not stop.is_set():
            body = page.get()
            if body != last:
                seen[body], last = time.perf_counter(), body

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    from_order, from_answer = [], []
    for number in range(changes):
        wanted = b"one" if number % 2 == 0 else b"two"
        seen.pop(wanted, None)
        ordered = time.perf_counter()
        switch(api, project, versions[wanted])
        answered = time.perf_counter()
        at = wait_until("the switch is seen", 30, lambda w=wanted: seen.get(w), every=0.0005)
        from_order.append((at - ordered) * 1000)
        from_answer.append(max(0.0, (at - answered) * 1000))
    stop.set()
    looking.join(10)
    figures = {
        name: {"p50_ms": round(percentile(times, 0.5), 3), "p99_ms": round(percentile(times, 0.99), 3), "max_ms": round(max(times), 3)}
        for name, times in (("from_order", from_order), ("from_answer", from_answer))
    }
    order, answer = figures["from_order"], figures["from_answer"]
    report(
        f"  {changes} switches among {count} hosts, seen by requests: after the order p50 {order['p50_ms']:.2f}, p99 {order['p99_ms']:.2f} ms"
        f" (database included); after its answer p50 {answer['p50_ms']:.2f}, p99 {answer['p99_ms']:.2f} ms   (goal p99 <= 10)"
    )
    return figures


class EchoSocket:
    """One open WebSocket."""

    def __init__(self, address, host):
        name, _, port = address.rpartition(":")
        self.socket = socket.create_connection((name, int(port)), timeout=30)
        self.socket.sendall(
            f"GET {SOCKET} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = self.socket.recv(1)
            if not byte:
                raise BenchError(f"a WebSocket was refused: {head[:300]!r}")
            head += byte
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise BenchError(f"a WebSocket was refused: {head[:300]!r}")

    def echoes(self):
        try:
            self.socket.sendall(b"\x82\x84\0\0\0\0ping")
            data = b""
            while len(data) < 6:
                more = self.socket.recv(6 - len(data))
                if not more:
                    return False
                data += more
            return data == b"\x82\x04ping"
        except OSError:
            return False


def switches(server, sink, core, changes, report):
    """Switches of a Worker of files under load, and at every tenth of one with an origin whose sockets are open."""
    api = Api(server)
    project, versions = two_versions(api, "bench switches")
    socketed = api.project("bench sockets")
    upstream(api, socketed, f"http://{sink.address}")
    host = worker_host(socketed)
    wait_until("the Worker with sockets answers", 30, lambda: request(server.listen, "GET", "/upload", {"Host": host})[0] == 200, 0.1)
    open_sockets = [EchoSocket(server.listen, host) for _ in range(SOCKETS)]
    done, outcome = threading.Event(), {"requests": 0, "errors": 0, "p99_ms": []}

    def press():
        while not done.is_set():
            row = load.wrk(core, 2, f"http://{server.listen}/", host=worker_host(project), connections=64)
            outcome["requests"] += row["requests"]
            outcome["errors"] += row["errors"]
            outcome["p99_ms"].append(row["p99_ms"])

    pressing = threading.Thread(target=press, daemon=True)
    pressing.start()
    began = time.monotonic()
    for number in range(changes):
        switch(api, project, versions[b"one" if number % 2 == 0 else b"two"])
        if number % 10 == 9:
            # The sockets' own Worker changes too; what is open stays where it is.
            upstream(api, socketed, f"http://{sink.address}")
    took = time.monotonic() - began
    done.set()
    pressing.join(200)
    dropped = sum(not one.echoes() for one in open_sockets)
    figures = {
        "changes": changes, "seconds": round(took, 1), "requests": outcome["requests"], "errors": outcome["errors"],
        "sockets": SOCKETS, "dropped": dropped, "p99_ms": median(outcome["p99_ms"]),
    }
    report(
        f"  {changes} switches in {took:.1f} s under load: {outcome['requests']} requests, {outcome['errors']} failed;"
        f" {SOCKETS} WebSockets, {dropped} dropped; p99 {figures['p99_ms']:.2f} ms   (goal 0 and 0)"
    )
    return figures
