"""POST /deploy to live on the parts of production: PostgreSQL, three NATS servers, an S3 server.

Starts private ones, on loopback, with their own defaults for durability, and ends them with itself,
also at a Ctrl-C: each part is a process in a session of its own that the kernel kills when this one dies.
"""

import contextlib
import http.client
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import deploys
from machine import median, percentile
from server import ROOT, TOOLS, Api, BenchError, Server, wait_until, worker_host

PART_SECONDS = 60
MOTO = ROOT / ".libra" / "bench-tools" / "bin" / "moto_server"
BUCKET = "libra"


def free_ports(count):
    with contextlib.ExitStack() as held:
        listeners = [held.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]


class Parts:
    """`with Parts() as parts:` has them all up; `parts.settings` leads a server to them."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="libra-bench-parts.", dir="/var/tmp"))
        self.folder.chmod(0o755)
        self.children = []
        self.settings = {}

    def __enter__(self):
        try:
            for part in (self.postgres, self.nats, self.s3):
                self.settings.update(part())
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_):
        for child, how in reversed(self.children):
            if child.poll() is None:
                child.send_signal(how)
        for child, _ in self.children:
            try:
                child.wait(15)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, name, command, account=None, stop=signal.SIGTERM):
        # --pdeathsig: nothing of it outlives this script, however that ends.
        words = ["setpriv", "--pdeathsig", "KILL"]
        if account:
            words += [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
        with open(self.folder / f"{name}.log", "ab") as log:
            child = subprocess.Popen(
                [*words, *map(str, command)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True
            )
        self.children.append((child, stop))
        return child

    def up(self, name, child, port):
        def listens():
            if child.poll() is not None:
                tail = (self.folder / f"{name}.log").read_text(errors="replace")[-2000:]
                raise BenchError(f"{name} ended with code {child.returncode}:\n{tail}")
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_until(f"{name} listens", PART_SECONDS, listens)

    def postgres(self):
        found = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists()]
        if not found:
            raise BenchError("PostgreSQL is not there; `make install-bench` installs it")
        programs = max(found, key=lambda path: int(path.parent.name))
        # It refuses to run as root.
        account = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
        home = self.folder / "postgres"
        home.mkdir(mode=0o700)
        become = []
        if account:
            os.chown(home, account.pw_uid, account.pw_gid)
            become = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
        made = subprocess.run(
            [*become, programs / "initdb", "--auth=trust", "--encoding=UTF8", "--locale=C", "--username=libra",
             "--pgdata", home / "data"],
            capture_output=True, text=True, cwd="/", check=False,
        )
        if made.returncode != 0:
            raise BenchError(f"initdb ended with code {made.returncode}: {made.stderr[-1000:]}")
        (port,) = free_ports(1)
        child = self.start(
            "postgres",
            [programs / "postgres", "-D", home / "data", "-h", "127.0.0.1", "-p", port, "-k", home,
             "-c", "max_connections=100"],
            account,
            # Its «fast» stop.
            signal.SIGINT,
        )
        self.up("postgres", child, port)
        ready = [programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port), "-U", "libra"]
        wait_until("PostgreSQL is ready", PART_SECONDS, lambda: subprocess.run(ready, check=False).returncode == 0)
        return {"LIBRA__DATABASE__URL": f"postgres://libra@127.0.0.1:{port}/postgres?sslmode=disable"}

    def nats(self):
        binary = TOOLS / "nats-server" / "nats-server"
        if not binary.exists():
            raise BenchError(f"{binary} is missing; `make install` fetches it")
        ports = free_ports(9)
        clients, routes, monitors = ports[:3], ports[3:6], ports[6:]
        others = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
        for number in range(3):
            name = f"nats{number}"
            config = self.folder / f"{name}.conf"
            config.write_text(
                f'server_name: {name}\nlisten: "127.0.0.1:{clients[number]}"\nhttp: "127.0.0.1:{monitors[number]}"\n'
                f'max_payload: 2097152\njetstream {{ store_dir: "{self.folder}/{name}" }}\n'
                f'cluster {{ name: bench, listen: "127.0.0.1:{routes[number]}", routes: [{others}] }}\n'
            )
            self.up(name, self.start(name, [binary, "-c", config]), clients[number])

        def healthy(port):
            try:
                return answer("GET", port, "/healthz")[0] == 200
            except (OSError, http.client.HTTPException):
                return False

        wait_until("the NATS cluster agrees", PART_SECONDS, lambda: all(map(healthy, monitors)))
        urls = ",".join(f"nats://127.0.0.1:{port}" for port in clients)
        return {"LIBRA__NATS__URL": urls, "LIBRA__NATS__REPLICAS": "3"}

    def s3(self):
        if not MOTO.exists():
            raise BenchError(f"{MOTO} is missing; `make install-bench` fetches it")
        (self.s3_port,) = free_ports(1)
        child = self.start("moto", [MOTO, "-H", "127.0.0.1", "-p", self.s3_port])
        self.up("moto", child, self.s3_port)
        status, raw = answer("PUT", self.s3_port, f"/{BUCKET}")
        if status != 200:
            raise BenchError(f"the bucket could not be made: {status} {raw[:300]!r}")
        return {
            "LIBRA__BLOBS__URL": f"s3://{BUCKET}/bench",
            "LIBRA__BLOBS__ENDPOINT": f"http://127.0.0.1:{self.s3_port}",
            "LIBRA__BLOBS__ACCESS_KEY_ID": "bench",
            "LIBRA__BLOBS__SECRET_ACCESS_KEY": "bench",
        }

    def one_put(self, count=50):
        """Median of a small put on the S3 server alone, ms."""
        times = []
        for number in range(count):
            began = time.perf_counter()
            status, _ = answer("PUT", self.s3_port, f"/{BUCKET}/alone/{number}", b"x" * 2000)
            times.append((time.perf_counter() - began) * 1000)
            if status != 200:
                raise BenchError(f"the S3 server answers {status}")
        return median(times)

    def requests(self):
        """What the S3 server was asked so far, by method."""
        text = re.sub(r"\x1b\[[0-9;]*m", "", (self.folder / "moto.log").read_text(errors="replace"))
        return {method: text.count(f'"{method} /{BUCKET}/') for method in ("GET", "HEAD", "PUT", "POST", "DELETE")}


def answer(method, port, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        # moto asks for a signature's form, not for its truth.
        key = "AWS4-HMAC-SHA256 Credential=bench/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
        connection.request(method, path, body, {"Authorization": key})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


CASES = {"edited": "one file of the twenty is new", "new": "all twenty are new"}


def measure(binary, results, report, quick=False):
    count, warm = (10, 2) if quick else (100, 5)
    rows, asked = {}, {}
    with Parts() as parts, Server(binary, settings=parts.settings) as server:
        put = parts.one_put()
        api = Api(server)
        address, _, port = server.listen.rpartition(":")
        front = http.client.HTTPConnection(address, int(port), timeout=30)
        for case in CASES:
            rows[case], asked[case] = one_after_another(parts, api, front, case == "new", warm, count)
    (results / "production.json").write_text(json.dumps({"put_ms": put, "s3": asked, "rows": rows}, indent=1) + "\n")
    report(f"production  {deploys.FILES} files, no build, {count} one after another on an idle server; ms")
    report("  PostgreSQL with its own durability, three NATS servers with three copies, moto as the S3 server")
    for case, words in CASES.items():
        report(f"  {words}")
        for name, what in [("accepted", "POST answered 202"), ("live", "live on its address"), ("completed", "status completed")]:
            values = [row[name] for row in rows[case]]
            figures = "   ".join(f"{k} {percentile(values, s):8.1f}" for k, s in [("p50", 0.5), ("p99", 0.99), ("max", 1)])
            report(f"    {what:20} {figures}")
        said = ", ".join(f"{number:.1f} {method}" for method, number in asked[case].items() if number)
        report(f"    a deployment asks S3 for {said}; one small PUT on this S3 server alone takes {put:.1f}")
    report("  goal: live p50 <= 300")


def one_after_another(parts, api, front, all_new, warm, count):
    """The times of each deployment, and what one asked S3 for."""
    project = api.project(f"bench production {'new' if all_new else 'edited'}")
    host = worker_host(project)
    rows = []
    for number in range(warm + count):
        if number == warm:
            before = parts.requests()
        mark = f"mark-{number}-{time.time_ns()}"
        start = time.perf_counter()
        deployment = api.deploy(project, deploys.site(mark, all_new))
        accepted = time.perf_counter()
        deploys.until_live(front, host, mark)
        live = time.perf_counter()
        api.completed(deployment)
        completed = time.perf_counter()
        if number >= warm:
            times = {"accepted": accepted - start, "live": live - start, "completed": completed - start}
            rows.append({"deployment": deployment, **{k: round(v * 1000, 2) for k, v in times.items()}})
    return rows, {method: (number - before[method]) / count for method, number in parts.requests().items()}
