"""The servers that Libra is compared with, and the origin behind all of them.

Each is configured as its own manual advises for speed: one worker, keep-alive on both sides, no access log,
no buffering of uploads. Each runs on the processor it is told, in a folder of its own, and is stopped at the end.
"""

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

from server import BenchError, request, wait_until

NGINX, HAPROXY, CADDY = "/usr/sbin/nginx", "/usr/sbin/haproxy", "/usr/bin/caddy"
ANSWER, BLOB, UPLOAD, SOCKET = "/answer", "/blob.bin", "/upload", "/socket"
SMALL_ANSWER = '{"ok":true,"items":[1,2,3],"text":"a small answer of an ordinary program behind a proxy, as JSON"}'

NGINX_TOP = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log warn;
{user}
events {{ worker_connections 15000; }}
http {{
  types {{ text/html html; application/octet-stream bin; application/json json; }}
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; keepalive_timeout 600s;
  open_file_cache max=1000 inactive=600s; open_file_cache_valid 600s; open_file_cache_errors on;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
"""

NGINX_ORIGIN = NGINX_TOP + """
  server {{
    listen 127.0.0.1:{port} backlog=4096; root {folder}/site; etag on;
    location = /answer {{ default_type application/json; return 200 '{answer}'; }}
  }}
}}
"""

NGINX_FRONT = NGINX_TOP + """
  upstream origin {{ server {origin}; keepalive 1024; keepalive_requests 1000000000; keepalive_timeout 600s; }}
  upstream helper {{ server {helper}; keepalive 1024; keepalive_requests 1000000000; keepalive_timeout 600s; }}
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
  proxy_request_buffering off; proxy_buffers 16 64k; proxy_buffer_size 16k; proxy_busy_buffers_size 128k;
  proxy_max_temp_file_size 0; client_max_body_size 0; proxy_read_timeout 300s;
  server {{
    listen 127.0.0.1:{port} backlog=4096; root {folder}/site; etag on;
    location = /answer {{ proxy_pass http://origin; }}
    location = /blob.bin {{ proxy_pass http://origin; }}
    location = /upload {{ proxy_pass http://helper; }}
    location = /socket {{
      proxy_pass http://helper; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;
    }}
  }}
}}
"""

HAPROXY_FRONT = """
global
  nbthread 1
  maxconn 12000
  no strict-limits
defaults
  mode http
  timeout connect 5s
  timeout client 300s
  timeout server 300s
  timeout tunnel 300s
  http-reuse always
frontend front
  bind 127.0.0.1:{port} backlog 4096
  use_backend helper if {{ path /upload /socket }}
  default_backend origin
backend origin
  server origin {origin}
backend helper
  server helper {helper}
"""

CADDY_FRONT = """
{{
  admin off
  auto_https off
  log {{
    output discard
  }}
}}
http://127.0.0.1:{port} {{
  bind 127.0.0.1
  @origin path /answer /blob.bin
  handle @origin {{
    reverse_proxy {origin} {{
      transport http {{
        keepalive 600s
        keepalive_idle_conns 4096
        keepalive_idle_conns_per_host 1024
      }}
    }}
  }}
  @helper path /upload /socket
  handle @helper {{
    reverse_proxy {helper} {{
      transport http {{
        keepalive 600s
        keepalive_idle_conns 4096
        keepalive_idle_conns_per_host 1024
      }}
    }}
  }}
  handle {{
    root * {folder}/site
    file_server
  }}
}}
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Running:
    """A process of its own, on one processor, with a folder that goes with it. `files` are laid in `site/`."""

    name = "?"

    def __init__(self, core, files=None, **values):
        self.core = core
        self.folder = Path(tempfile.mkdtemp(prefix=f"libra-bench-{self.name}.", dir="/var/tmp"))
        self.folder.chmod(0o755)
        (self.folder / "site").mkdir()
        for path, body in (files or {}).items():
            (self.folder / "site" / path[1:]).write_bytes(body)
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        # The same user as the server it is compared with.
        user = "user root;" if os.geteuid() == 0 else ""
        self.values = {"folder": self.folder, "port": self.port, "user": user, "answer": SMALL_ANSWER, **values}
        self.process = None

    def command(self):
        raise NotImplementedError

    def config(self, name, template):
        path = self.folder / name
        path.write_text(template.format(**self.values))
        return str(path)

    def __enter__(self):
        environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(self.folder)}
        with open(self.folder / "output.log", "wb") as log:
            self.process = subprocess.Popen(
                ["taskset", "-c", self.core, *self.command()],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=self.folder,
            )
        try:
            wait_until(f"{self.name} answers", 15, self._answers)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _answers(self):
        if self.process.poll() is not None:
            tail = (self.folder / "output.log").read_text(errors="replace")[-500:]
            raise BenchError(f"{self.name} ended with code {self.process.returncode}: {tail}")
        try:
            request(self.address, "GET", ANSWER)
            return True
        except OSError:
            return False

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def pids(self):
        main = self.process.pid
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        return [main, *map(int, children)]


class Origin(Running):
    name = "origin"

    def command(self):
        return [NGINX, "-c", self.config("nginx.conf", NGINX_ORIGIN), "-p", str(self.folder)]


class Helper(Running):
    """Swallows uploads, echoes WebSocket frames."""

    name = "helper"

    def __init__(self, core, binary):
        super().__init__(core)
        self.binary = binary

    def command(self):
        return [str(self.binary), "serve", self.address]


class Nginx(Running):
    name = "nginx"

    def command(self):
        return [NGINX, "-c", self.config("nginx.conf", NGINX_FRONT), "-p", str(self.folder)]


class Haproxy(Running):
    name = "haproxy"

    def command(self):
        return [HAPROXY, "-db", "-f", self.config("haproxy.cfg", HAPROXY_FRONT)]


class Caddy(Running):
    name = "caddy"

    def command(self):
        return [CADDY, "run", "--adapter", "caddyfile", "--config", self.config("Caddyfile", CADDY_FRONT)]
