"""Memory that idle keep-alive connections cost, beside nginx, HAProxy and Caddy."""

import json
import os
import resource
import socket
from contextlib import ExitStack

import load
from front_door import content, encoded
from memory import resident
from rivals import BLOB, Caddy, Haproxy, Nginx, Origin
from server import Api, BenchError, Server, wait_until, worker_host

COUNTS = (1_000, 10_000)
# For each connection one descriptor here and one there, and some to spare.
SPARE = 2_000


def room(count):
    """Raises what this process, and who it starts, may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + SPARE
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise BenchError(f"{count} connections need a limit of {wanted} open files; this machine allows {hard}")
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def hold(address, host, path, count):
    """Opens `count` connections, and has one answer on each."""
    name, _, port = address.rpartition(":")
    ask = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    held = []
    try:
        for _ in range(count):
            one = socket.create_connection((name, int(port)), timeout=30)
            held.append(one)
            one.sendall(ask)
            answer = one.recv(65536)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise BenchError(f"connection {len(held)} of {count} got {answer[:200]!r}")
    except OSError as error:
        for one in held:
            one.close()
        raise BenchError(f"connection {len(held)} of {count}: {error}") from error
    return held


def resident_kib(pids):
    return sum(resident(pid)["Pss"] for pid in pids)


def open_files(pids):
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)


def settled(pids):
    """Two readings, half a second apart, that agree."""
    last = [resident_kib(pids)]

    def same():
        now = resident_kib(pids)
        is_same = abs(now - last[0]) <= 64
        last[0] = now
        return is_same

    wait_until("memory is settled", 60, same, every=0.5)
    return last[0]


def measure(binary, results, report, quick=False):
    counts = COUNTS[:1] if quick else COUNTS
    room(max(counts))
    server_core, _, origin_core = load.cores()
    files = content()
    rows = []
    with ExitStack() as stack:
        origin = stack.enter_context(Origin(origin_core, {BLOB: files["/large.bin"]}))
        behind = {"origin": origin.address, "helper": origin.address}
        rivals = [stack.enter_context(kind(server_core, files, **behind)) for kind in (Nginx, Haproxy, Caddy)]
        server = stack.enter_context(Server(binary, cores=server_core))
        api = Api(server)
        project = api.project("bench idle")
        page = {"path": "index.html", "content": "<!doctype html><title>idle</title>\n"}
        api.completed(api.deploy(project, [*encoded(files), page]), every=0.1)
        sides = [("libra", server.listen, worker_host(project), "/small.html", lambda: [server.pid()])]
        sides += [(r.name, r.address, r.address, "/answer" if r.name == "haproxy" else "/small.html", r.pids) for r in rivals]
        report("idle     memory of idle keep-alive connections, each after one answer; KiB per connection")
        for name, address, host, path, pids in sides:
            before, files = settled(pids()), open_files(pids())
            for count in counts:
                held = hold(address, host, path, count)
                during = settled(pids())
                for one in held:
                    one.close()
                each = (during - before) / count
                rows.append({"server": name, "connections": count, "before_kib": before, "during_kib": during})
                report(f"  {name:8} {count:6}   {before / 1024:7.1f} -> {during / 1024:7.1f} MiB   {each:6.2f} KiB each")
                # Some files may have been opened beside; each connection was one.
                wait_until("the connections are gone", 60, lambda: open_files(pids()) <= files + count // 10)
    (results / "connections.json").write_text(json.dumps(rows, indent=1) + "\n")
