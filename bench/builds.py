"""Builds, ours against the same commands outside the sandbox: cold, and with kept dependencies.

Owns the reference: the commands that our build log names, as plain children with the same Node and
the same environment, an empty npm cache each time, and the very same registry mirror. A mirror listens
only on a unix socket for a sandbox, so a second server holds a build open, and its socket is
lent to the reference through a forwarder on the address that builds know it by.
"""

import contextlib
import http.client
import json
import os
import re
import resource
import shlex
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path

from machine import median
from server import ROOT, TOOLS, Api, BenchError, Server, wait_until, worker_host

PROJECTS = {
    "react": ROOT / "examples" / "vite-react",
    "next": ROOT / "bench" / "projects" / "next",
    "astro": ROOT / "templates" / "astro",
}
# Where a build finds the mirror: package documents name this address.
MIRROR_PORT = 4873
BUILD_SECONDS = 900
# The poller takes processor time from the build; 50 ms is the error of «live».
POLL_SECONDS = 0.05
# Those of src/sandbox/cache/framework.rs that npm projects here can have.
FRAMEWORK_CACHES = [".next/cache", ".astro", "node_modules/.astro", "node_modules/.vite", "node_modules/.cache"]


def sources(name, mark=""):
    """What git would track of a project, as a deployment's files; `mark` makes each one its own."""
    folder = PROJECTS[name]
    listed = subprocess.run(
        ["git", "-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True, text=True, check=True,
    ).stdout
    paths = sorted(path for path in listed.split("\0") if path and (folder / path).is_file())
    files = [{"path": path, "content": (folder / path).read_text()} for path in paths]
    return [*files, {"path": "public/mark.txt", "content": mark}]


def milliseconds(begin, end):
    """Between two times of a status document."""
    return (parsed(end) - parsed(begin)) * 1000


def parsed(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


class Mirror:
    """A warm registry mirror that our servers and the reference share, and the commands that a build runs."""

    def __init__(self, binary, projects):
        self.binary, self.projects = binary, projects
        self.folder = Path(tempfile.mkdtemp(prefix="libra-bench-mirror.", dir="/var/tmp"))
        self.folder.chmod(0o755)
        self.commands = {}
        self.parts = contextlib.ExitStack()

    def settings(self, **more):
        return {
            "LIBRA__MIRROR_DIR": str(self.folder / "mirror"),
            # Documents stay as the throw-away deployment found them: nobody asks upstream while we measure.
            "LIBRA__SANDBOX__MIRROR__DOCUMENT_FRESH_SECONDS": "86400",
            # The reference has all processors.
            "LIBRA__SANDBOX__CPU_CORES": f"{cores()}.0",
            "LIBRA__HTTP__STATUS_REQUESTS_PER_MINUTE": "1000000",
            **more,
        }

    def __enter__(self):
        try:
            self.warm()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_):
        try:
            self.parts.close()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def warm(self):
        with Server(self.binary, settings=self.settings()) as server:
            api = Api(server)
            for name in self.projects:
                deployment = api.deploy(api.project(f"warm {name}"), sources(name))
                api.completed(deployment, every=POLL_SECONDS, seconds=BUILD_SECONDS)
                self.commands[name] = [line[2:] for line in api.log(deployment) if line.startswith("$ ")]
                # A lockfile that lacks what this registry lacks is tried, and then made to fit: the reference
                # installs by what worked.
                if self.commands[name][:2] == ["npm ci", "npm install"]:
                    del self.commands[name][0]
                if len(self.commands[name]) != 2:
                    raise BenchError(f"{name} is not one install and one build: {self.commands[name]}")

    @contextlib.contextmanager
    def lent(self):
        """While this lasts the mirror answers on 127.0.0.1 too."""
        held = self.settings(
            LIBRA__TESTING__HOLD="build.begin",
            LIBRA__PIPELINE__BUILD_TIMEOUT_SECONDS="1780",
            LIBRA__PIPELINE__TOTAL_TIMEOUT_SECONDS="1790",
            LIBRA__HTTP__SHUTDOWN_TIMEOUT_SECONDS="1",
        )
        with Server(self.binary, settings=held) as server:
            api = Api(server)
            api.deploy(api.project("holder"), sources("react"))
            found = wait_until("a sandbox is open", 300, lambda: list(server.data.rglob("registry.sock")), 0.2)
            with Forwarder(found[0]) as forwarder:
                yield forwarder


class Forwarder:
    """127.0.0.1:4873 to a unix socket, as the shim in a sandbox does it."""

    def __init__(self, path):
        self.path = str(path)
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self.listener.bind(("127.0.0.1", MIRROR_PORT))
        except OSError as error:
            raise BenchError(f"port {MIRROR_PORT} is needed for the reference's registry: {error}") from None
        self.listener.listen(128)

    def __enter__(self):
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        # Closing alone would not wake the thread that accepts.
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self.path)
            except OSError:
                client.close()
                continue
            for pair in [(client, server), (server, client)]:
                threading.Thread(target=self.pump, args=pair, daemon=True).start()

    @staticmethod
    def pump(source, sink):
        buffer = memoryview(bytearray(256 * 1024))
        try:
            while size := source.recv_into(buffer):
                sink.sendall(buffer[:size])
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)


class Bare:
    """The reference for one project: its commands, in a folder of its own, without Libra."""

    def __init__(self, name, commands):
        self.name, (self.install, self.build) = name, commands
        self.folder = Path(tempfile.mkdtemp(prefix="libra-bench-bare.", dir="/var/tmp"))
        self.home, self.work = self.folder / "home", self.folder / "work"
        self.kept = self.folder / "kept"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.folder, ignore_errors=True)

    def environment(self):
        """Ours, of src/sandbox/environment.rs; there is no way out but to the registry either."""
        node = TOOLS / "node" / "24" / "bin"
        if not (node / "node").exists():
            raise BenchError(f"{node}/node is missing; `make install` fetches it")
        nowhere, near = "http://127.0.0.1:9/", "127.0.0.1,localhost,::1"
        return {
            "PATH": f"{node}:/usr/bin:/bin", "HOME": str(self.home), "TMPDIR": str(self.folder / "tmp"),
            "LANG": "C.UTF-8", "CI": "1", "DO_NOT_TRACK": "1",
            "npm_config_registry": f"http://127.0.0.1:{MIRROR_PORT}/", "npm_config_replace_registry_host": "always",
            "npm_config_update_notifier": "false", "npm_config_audit": "false", "npm_config_fund": "false",
            "https_proxy": nowhere, "HTTPS_PROXY": nowhere, "no_proxy": near, "NO_PROXY": near,
        }

    def fresh(self):
        """The sources alone, an empty npm cache and an empty temporary folder."""
        for folder in (self.work, self.home, self.folder / "tmp"):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        for file in sources(self.name, "bare"):
            path = self.work / file["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file["content"])

    def start(self, command, work=None):
        with open(self.folder / "log", "ab") as log:
            return subprocess.Popen(
                shlex.split(command), cwd=work or self.work, env=self.environment(),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )

    def run(self, command):
        """Wall and processor time of one command, ms."""
        began = time.perf_counter()
        child = self.start(command)
        try:
            _, status, used = os.wait4(child.pid, 0)
        except BaseException:
            child.kill()
            raise
        wall = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            tail = (self.folder / "log").read_text(errors="replace")[-2000:]
            raise BenchError(f"{self.name}: {command} ended with code {child.returncode} outside the sandbox:\n{tail}")
        return wall * 1000, (used.ru_utime + used.ru_stime) * 1000

    def cold(self):
        """Both commands; what was installed is put aside for `again`, untimed."""
        self.fresh()
        before = resource.getrusage(resource.RUSAGE_SELF)
        install, install_cpu = self.run(self.install)
        after = resource.getrusage(resource.RUSAGE_SELF)
        shutil.rmtree(self.kept, ignore_errors=True)
        subprocess.run(["cp", "-a", "--reflink=auto", self.work / "node_modules", self.kept], check=True)
        build, build_cpu = self.run(self.build)
        forwarding = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return {"install": install, "build": build, "total": install + build, "cpu": install_cpu + build_cpu,
                "forwarder_cpu": forwarding * 1000}

    def again(self, caches=True):
        """The build alone, installed dependencies in place, from sources and the last build's framework caches."""
        last = self.folder / "last"
        shutil.rmtree(last, ignore_errors=True)
        self.work.rename(last)
        self.fresh()
        subprocess.run(["cp", "-a", "--reflink=auto", self.kept, self.work / "node_modules"], check=True)
        for name in FRAMEWORK_CACHES if caches else []:
            if (last / name).is_dir():
                (self.work / name).parent.mkdir(parents=True, exist_ok=True)
                (last / name).rename(self.work / name)
        shutil.rmtree(last)
        build, cpu = self.run(self.build)
        return {"build": build, "cpu": cpu}


def cores():
    return len(os.sched_getaffinity(0))


def deployed(server, api, project, name):
    """One deployment: its build step, the time until it is live, and what the log says of dependencies."""
    address, _, port = server.listen.rpartition(":")
    front = http.client.HTTPConnection(address, int(port), timeout=30)
    mark = f"mark-{time.time_ns()}"
    files = sources(name, mark)
    began = time.perf_counter()
    deployment = api.deploy(project, files)

    def live():
        front.request("GET", "/mark.txt", headers={"Host": worker_host(project)})
        if front.getresponse().read() == mark.encode():
            return True
        document = api.status(deployment)
        if document and document["status"] in ("failed", "cancelled"):
            tail = "\n".join(api.log(deployment)[-20:])
            raise BenchError(f"{name} ended: {document['status']}\n{tail}")
        return False

    wait_until(f"{name} is live", BUILD_SECONDS, live, POLL_SECONDS)
    until_live = (time.perf_counter() - began) * 1000
    document = api.completed(deployment)
    step = document["steps"]["build"]
    log = api.log(deployment)
    own = server.log.read_text(errors="replace")
    walls = [
        int(re.search(r"wall_ms=(\d+)", line).group(1))
        for line in re.sub(r"\x1b\[[0-9;]*m", "", own).splitlines()
        if deployment in line and "command ended" in line and "wall_ms=" in line
    ]
    return {
        "deployment": deployment, "step": milliseconds(step["startedAt"], step["finishedAt"]), "live": until_live,
        "commands": walls, "cache": [line for line in log if "dependencies:" in line or "framework caches:" in line],
    }


def ours(binary, mirror, name):
    """First and second deployment of a project on a server that has seen nothing yet."""
    with Server(binary, settings=mirror.settings()) as server:
        api = Api(server)
        project = api.project(f"bench {name}")
        return {which: deployed(server, api, project, name) for which in ("first", "second")}


def measure(binary, results, report, quick=False):
    rounds = 1 if quick else 5
    rows = []
    with Mirror(binary, PROJECTS) as mirror, mirror.lent():
        for number in range(rounds):
            for name in PROJECTS:
                with Bare(name, mirror.commands[name]) as bare:
                    row = {"project": name, "round": number}
                    # Who goes first changes, so that neither always finds the warmer machine.
                    for side in ("bare", "ours") if number % 2 == 0 else ("ours", "bare"):
                        if side == "ours":
                            row["ours"] = ours(binary, mirror, name)
                        else:
                            row["bare"] = {"cold": bare.cold(), "again": bare.again()}
                rows.append(row)
                (results / "builds.json").write_text(json.dumps(rows, indent=1) + "\n")
        commands = mirror.commands

    report(f"builds   {rounds} interleaved rounds, a server with empty caches each; ms, medians (least-most)")
    report("  ours: the build step (install, build, collect, pack, keep for the next build); live: from POST")
    report("  outside: the same commands, Node, environment and disk, npm's cache empty, all processors")
    report("  registry: for both the same mirror of ours, warm; outside through a forwarder of this script")
    report("  second: another deployment, lockfile unchanged; bare build: outside, dependencies in place,")
    report("  the framework caches of the build before in place as in ours, and nothing else of it")
    for name in PROJECTS:
        mine = [row for row in rows if row["project"] == name]

        def values(pick, mine=mine):
            return [pick(row) for row in mine]

        first = values(lambda r: r["ours"]["first"]["step"])
        second = values(lambda r: r["ours"]["second"]["step"])
        cold = values(lambda r: r["bare"]["cold"]["total"])
        again = values(lambda r: r["bare"]["again"]["build"])
        live = [values(lambda r, w=w: r["ours"][w]["live"]) for w in ("first", "second")]
        forwarder = median(values(lambda r: r["bare"]["cold"]["forwarder_cpu"]))
        report(f"  {name}: {' && '.join(commands[name])}")
        report(f"    cold     ours {figures(first)}   outside {figures(cold)}   ratio {ratio(first, cold)}   (goal <= 1.10)")
        report(f"             live {figures(live[0])}   the forwarder used {forwarder:.0f} ms of processor")
        report(f"    second   ours {figures(second)}   of the cold one {ratio(second, first)}   (goal <= 0.40)")
        report(f"             live {figures(live[1])}   of the cold one {ratio(live[1], live[0])}")
        added = [mine_ - bare_ for mine_, bare_ in zip(second, again, strict=True)]
        report(f"    hit      bare build {figures(again)}   ours adds {figures(added)}   (goal <= 50)")
        inside = values(lambda r: sum(r["ours"]["second"]["commands"]))
        if all(inside):
            report(f"             of that the command, slower inside: {median(inside) - median(again):.0f}")
        said = [line for line in mine[-1]["ours"]["second"]["cache"] if "dependencies:" in line]
        report(f"             log: {said[0] if said else 'nothing of dependencies'}")


def figures(values):
    return f"{median(values):.0f} ({min(values):.0f}-{max(values):.0f})"


def ratio(over, under):
    """Of the medians, and the range of the rounds' own ratios."""
    each = [a / b for a, b in zip(over, under, strict=True)]
    return f"{median(over) / median(under):.2f} ({min(each):.2f}-{max(each):.2f})"
