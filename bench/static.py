"""Static GET through the front door against nginx serving the same bytes, one core each, interleaved."""

import base64
import json
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import load
from machine import median
from server import Api, BenchError, Server, request, wait_until, worker_host

NGINX = "/usr/sbin/nginx"
CONNECTIONS = 64
SMALL, LARGE = "/small.html", "/large.bin"

NGINX_CONF = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log warn;
{user}
events {{ worker_connections 1024; }}
http {{
  types {{ text/html html; application/octet-stream bin; }}
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 10000000;
  open_file_cache max=1000 inactive=600s; open_file_cache_valid 600s; open_file_cache_errors on;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{ listen 127.0.0.1:{port}; root {folder}/site; etag on; }}
}}
"""


def content():
    small = "<!doctype html><title>small</title>\n" + "<p>Twelve hundred bytes of a page.</p>\n" * 31
    return {SMALL: small.encode(), LARGE: os.urandom(2**20)}


class Nginx:
    """nginx on one core, with its own folder; a free port is asked from the kernel."""

    def __init__(self, core, files):
        self.core = core
        self.folder = Path(tempfile.mkdtemp(prefix="libra-bench-nginx.", dir="/var/tmp"))
        self.folder.chmod(0o755)
        (self.folder / "site").mkdir()
        for path, body in files.items():
            (self.folder / "site" / path[1:]).write_bytes(body)
        self.process = None

    def __enter__(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        # The same user as the server it is compared with.
        user = "user root;" if os.geteuid() == 0 else ""
        config = self.folder / "nginx.conf"
        config.write_text(NGINX_CONF.format(folder=self.folder, port=port, user=user))
        command = ["taskset", "-c", self.core, NGINX, "-c", str(config), "-p", str(self.folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def answers():
            if self.process.poll() is not None:
                raise BenchError(f"nginx ended with code {self.process.returncode}")
            try:
                return request(self.address, "GET", SMALL)[0] == 200
            except OSError:
                return False

        try:
            wait_until("nginx answers", 10, answers)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def pids(self):
        master = self.process.pid
        children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        return [master, *map(int, children)]


def measure(binary, results, report, quick=False):
    server_core, load_core, _ = load.cores()
    rounds, seconds = (2, 2) if quick else (5, 5)
    files = content()
    rows = []
    with Server(binary, cores=server_core) as server, Nginx(server_core, files) as nginx:
        api = Api(server)
        project = api.project("bench static")
        encoded = [
            {"path": path[1:], "content": base64.b64encode(body).decode(), "encoding": "base64"}
            for path, body in files.items()
        ]
        encoded.append({"path": "index.html", "content": "<!doctype html><title>bench</title>\n"})
        api.completed(api.deploy(project, encoded), every=0.1)
        host = worker_host(project)
        ours = {"name": "libra", "address": server.listen, "host": host, "pids": lambda: [server.pid()]}
        theirs = {"name": "nginx", "address": nginx.address, "host": "127.0.0.1", "pids": nginx.pids}
        for path, body in files.items():
            for side in (ours, theirs):
                answer = request(side["address"], "GET", path, {"Host": side["host"]})
                if answer != (200, body):
                    raise BenchError(f"{side['name']} serves other bytes for {path} (status {answer[0]})")
        for number in range(rounds):
            for path in files:
                # Who goes first alternates, so that drift of the machine hits both.
                for side in (ours, theirs) if number % 2 == 0 else (theirs, ours):
                    before = load.cpu_seconds(side["pids"]())
                    url = f"http://{side['address']}{path}"
                    row = load.wrk(load_core, seconds, url, side["host"], CONNECTIONS)
                    used = load.cpu_seconds(side["pids"]()) - before
                    raw = row.pop("raw")
                    if row["errors"]:
                        raise BenchError(f"wrk saw errors on {path}: {raw[-400:]}")
                    name = f"static-{number}-{side['name']}-{path[1:].partition('.')[0]}.txt"
                    (results / name).write_text(raw)
                    rows.append({"round": number, "server": side["name"], "path": path, **row,
                                 "cpu_us": round(used * 1e6 / row["requests"], 2)})
    (results / "static.json").write_text(json.dumps(rows, indent=1) + "\n")
    report(f"static   wrk -t1 -c{CONNECTIONS} -d{seconds}s, {rounds} interleaved rounds, server on one core, load on another; medians")
    for path, body in files.items():
        figures = {}
        for name in ("libra", "nginx"):
            chosen = [row for row in rows if row["server"] == name and row["path"] == path]
            figures[name] = {key: median([row[key] for row in chosen]) for key in ("rate", "p99_ms", "cpu_us")}
            spread = (min(row["rate"] for row in chosen), max(row["rate"] for row in chosen))
            report(
                f"  {name}  {len(body):8} B  {figures[name]['rate']:10.0f} req/s ({spread[0]:.0f}-{spread[1]:.0f})"
                f"   p99 {figures[name]['p99_ms']:7.2f} ms   {figures[name]['cpu_us']:7.1f} us CPU per request"
            )
        ratio = figures["libra"]["rate"] / figures["nginx"]["rate"]
        cpu = figures["nginx"]["cpu_us"] / figures["libra"]["cpu_us"] if figures["libra"]["cpu_us"] else float("nan")
        report(f"  ratio  {len(body):8} B  {ratio:10.2f} of nginx's rate   {cpu:.2f} by CPU per request   (goal >= 1.0)")
