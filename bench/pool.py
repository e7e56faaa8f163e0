"""Twenty deployments at once on a pool of five, against the sum of their builds done bare and one by one."""

import json
import time

from builds import POLL_SECONDS, BUILD_SECONDS, Bare, Mirror, cores, milliseconds, parsed, sources
from machine import median
from server import Api, BenchError, Server

PROJECT = "react"
DEPLOYMENTS = 20
POOL = 5


def rush(binary, mirror, count, warm):
    """Seconds from the first POST until the last of `count` projects is live, and each one's build step."""
    settings = mirror.settings(
        LIBRA__PIPELINE__CONCURRENCY=str(POOL),
        LIBRA__SANDBOX__SLOTS=str(POOL),
        LIBRA__SANDBOX__CACHE__ENABLED="true" if warm else "false",
    )
    with Server(binary, settings=settings) as server:
        api = Api(server)
        if warm:
            before = api.deploy(api.project("before"), sources(PROJECT, "before"))
            api.completed(before, every=POLL_SECONDS, seconds=BUILD_SECONDS)
        projects = [api.project(f"pool {number}") for number in range(count)]
        files = [sources(PROJECT, f"pool {number}") for number in range(count)]
        began = time.time()
        deployments = [api.deploy(project, each) for project, each in zip(projects, files, strict=True)]
        posted = time.time() - began
        documents = finished(api, deployments)
        hits = sum(any("dependencies: hit" in line for line in api.log(each)) for each in deployments) if warm else 0
    if warm and hits != count:
        raise BenchError(f"only {hits} of {count} deployments found the kept dependencies")
    live = [parsed(document["steps"]["deploy"]["finishedAt"]) - began for document in documents]
    steps = [document["steps"]["build"] for document in documents]
    return {
        "posted": posted, "total": max(live), "live": live,
        "steps": [milliseconds(step["startedAt"], step["finishedAt"]) for step in steps],
    }


def finished(api, deployments):
    """The last status document of each; asks rarely, because asking takes time from the builds."""
    documents = {}
    deadline = time.monotonic() + BUILD_SECONDS
    while len(documents) < len(deployments):
        if time.monotonic() > deadline:
            raise BenchError(f"{len(documents)} of {len(deployments)} were completed within {BUILD_SECONDS} s")
        time.sleep(0.25)
        for deployment in deployments:
            if deployment in documents:
                continue
            document = api.status(deployment)
            if document and document["status"] in ("failed", "cancelled"):
                tail = "\n".join(api.log(deployment)[-20:])
                raise BenchError(f"deployment {deployment} ended: {document['status']}\n{tail}")
            if not document or document["status"] != "completed":
                # They are done in about the order they came in.
                break
            documents[deployment] = document
    return [documents[deployment] for deployment in deployments]


def alone(mirror, runs):
    """The same builds outside the sandbox, one at a time."""
    rows = {"cold": [], "warm": []}
    with mirror.lent(), Bare(PROJECT, mirror.commands[PROJECT]) as bare:
        for _ in range(runs):
            cold = bare.cold()
            rows["cold"].append({"wall": cold["total"], "cpu": cold["cpu"]})
            # Each of the twenty is its project's first: no framework caches.
            warm = bare.again(caches=False)
            rows["warm"].append({"wall": warm["build"], "cpu": warm["cpu"]})
    return rows


def measure(binary, results, report, quick=False):
    count, runs, rounds = (6, 1, 1) if quick else (DEPLOYMENTS, 5, 3)
    rows = []
    with Mirror(binary, [PROJECT]) as mirror:
        bare = alone(mirror, runs)
        # The server that lent its mirror is gone: it held one of the host's slots.
        for _ in range(rounds):
            rows.append({case: rush(binary, mirror, count, case == "warm") for case in ("warm", "cold")})
            (results / "pool.json").write_text(json.dumps({"bare": bare, "rounds": rows}, indent=1) + "\n")
    report(f"pool     {count} deployments of {PROJECT} at once, {POOL} at a time, {rounds} rounds; seconds, medians")
    report(f"  bare: the same commands outside the sandbox, one at a time, median of {runs}; {cores()} processors")
    for case, what in [
        ("warm", "dependencies kept by an earlier deployment; bare: the build alone"),
        ("cold", "no dependency cache, the registry mirror warm; bare: install and build"),
    ]:
        totals = [row[case]["total"] for row in rows]
        wall = median([row["wall"] for row in bare[case]]) / 1000
        cpu = median([row["cpu"] for row in bare[case]]) / 1000
        ideal = wall * count / cores()
        step = median([ms for row in rows for ms in row[case]["steps"]]) / 1000
        report(f"  {case}: {what}")
        report(
            f"    total {median(totals):6.1f} ({min(totals):.1f}-{max(totals):.1f})   "
            f"bare {wall:.2f} x {count} / {cores()} = {ideal:.1f}   ratio {median(totals) / ideal:.2f}   (goal <= 1.25)"
        )
        # A bare build that uses more than one processor can't be run `cores` times at once at full speed.
        report(
            f"    a bare build used {cpu:.2f} s of processor, {cpu / wall:.2f} at once: {count} of them can't take less than "
            f"{cpu * count / cores():.1f}   ratio {median(totals) / (cpu * count / cores()):.2f}   a build step took {step:.1f}"
        )
