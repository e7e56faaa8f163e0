"""Runs one Libra of its own for a measurement: own data folder, free ports, stopped at the end.

Knows how to start and stop it, to read what it says about itself, and to call its API.
Never touches a server that it did not start.
"""

import http.client
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(os.environ.get("LIBRA__TOOLS_DIR", ROOT / ".libra" / "tools")).resolve()
START_SECONDS = 120
STOP_SECONDS = 60


class BenchError(Exception):
    """A measurement that could not be made; the message says why."""


def wait_until(what, seconds, condition, every=0.05):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        result = condition()
        if result:
            return result
        time.sleep(every)
    raise BenchError(f"waited {seconds} s in vain: {what}")


class Server:
    """`with Server(binary) as server:` is a ready server; `cores` restricts it to those processors,
    `settings` are variables that it gets beside its own."""

    def __init__(self, binary, cores=None, settings=None):
        self.binary = str(binary)
        self.cores = cores
        self.settings = settings or {}
        self.folder = Path(tempfile.mkdtemp(prefix="libra-bench.", dir="/var/tmp"))
        # Builds run under a uid of their own, which has to get through.
        self.folder.chmod(0o755)
        self.data = self.folder / "data"
        self.log = self.folder / "server.log"
        self.process = None

    def environment(self):
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith("LIBRA_")},
            "LIBRA__DATA_DIR": str(self.data),
            "LIBRA__HTTP__LISTEN": "127.0.0.1:0",
            "LIBRA__HTTP__OPERATOR_LISTEN": "127.0.0.1:0",
            "LIBRA__TOOLS_DIR": str(TOOLS),
            **self.settings,
        }

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, seconds=START_SECONDS):
        command = [self.binary, "serve"]
        if self.cores:
            command = ["taskset", "-c", self.cores, *command]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                command, env=self.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder
            )
        wait_until("the server is ready", seconds, self._is_ready)

    def _is_ready(self):
        if self.process.poll() is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
            raise BenchError(f"the server ended with code {self.process.returncode}:\n{tail}")
        try:
            facts = json.loads((self.data / "server.json").read_text())
            # taskset replaces itself by the server, so the pid is the same.
            if facts["pid"] != self.process.pid:
                return False
            operator = _first(facts["operator_listen"])
            status, _ = request(operator, "GET", "/readyz")
            self.listen = _first(facts["listen"])
            return status == 200
        except (OSError, ValueError, KeyError, http.client.HTTPException):
            return False

    def stop(self):
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise BenchError(f"the server did not stop within {STOP_SECONDS} s") from None

    def command(self, *args, seconds=600):
        """Runs another command of the same binary on the same data folder."""
        done = subprocess.run(
            [self.binary, *args], env=self.environment(), capture_output=True, text=True, timeout=seconds, check=False
        )
        if done.returncode != 0:
            raise BenchError(f"libra {' '.join(args)} ended with code {done.returncode}: {done.stderr.strip()[-500:]}")
        return done.stdout

    def pid(self):
        return self.process.pid


class Api:
    """The control surface, as the development bootstrap's user."""

    def __init__(self, server):
        bootstrap = json.loads((server.data / "bootstrap.json").read_text())
        self.org, self.user = bootstrap["orgId"], bootstrap["userId"]
        self.headers = {"Authorization": f"Bearer {bootstrap['token']}", "Content-Type": "application/json"}
        host, _, port = server.listen.rpartition(":")
        self.connection = http.client.HTTPConnection(host, int(port), timeout=30)

    def call(self, method, path, body=None, expect=200):
        payload = None if body is None else json.dumps(body)
        self.connection.request(method, path, payload, self.headers)
        answer = self.connection.getresponse()
        raw = answer.read()
        if answer.status != expect:
            raise BenchError(f"{method} {path} answered {answer.status}: {raw[:500].decode(errors='replace')}")
        return json.loads(raw)

    def project(self, name):
        return self.call("POST", "/api/v1/projects", {"name": name, "orgId": self.org}, expect=201)

    def deploy(self, project, files):
        body = {"projectId": project["id"], "orgId": self.org, "userId": self.user, "initFiles": files}
        return self.call("POST", "/deploy", body, expect=202)["deploymentId"]

    def status(self, deployment):
        """The status document, or None when asked too often."""
        self.connection.request("GET", f"/deploy-status?id={deployment}")
        answer = self.connection.getresponse()
        raw = answer.read()
        if answer.status == 429:
            return None
        if answer.status != 200:
            raise BenchError(f"GET /deploy-status answered {answer.status}: {raw[:500].decode(errors='replace')}")
        return json.loads(raw)

    def log(self, deployment):
        """The build log's lines."""
        self.connection.request("GET", f"/api/v1/deployments/{deployment}/logs", headers=self.headers)
        answer = self.connection.getresponse()
        raw = answer.read()
        if answer.status != 200:
            raise BenchError(f"the build log of {deployment} answered {answer.status}")
        return raw.decode(errors="replace").splitlines()

    def completed(self, deployment, every=0.02, seconds=120):
        """Waits until the deployment is completed."""

        def final():
            document = self.status(deployment)
            if document and document["status"] in ("failed", "cancelled"):
                raise BenchError(f"deployment {deployment} ended: {json.dumps(document)[:1000]}")
            return document if document and document["status"] == "completed" else None

        return wait_until(f"deployment {deployment} is completed", seconds, final, every)


def upstream(api, project, *origins):
    """Registers a Worker as these HTTP origins."""
    return api.call("PUT", f"/api/v1/projects/{project['id']}/upstream", {"origins": list(origins)})


def switch(api, project, version):
    """Makes an earlier version live."""
    path = f"/api/v1/projects/{project['id']}/promote"
    return api.call("POST", path, {"versionId": version})


def worker_host(project):
    return f"{project['workerName']}.libra.localhost"


def request(address, method, path, headers=None):
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _first(value):
    address = value[0] if isinstance(value, list) else value
    return address.split("://", 1)[-1].rstrip("/")
