"""Names what was measured: machine, commit, binary. Reads /proc and git, changes nothing."""

import math
import os
import platform
import subprocess
import time


def _cpu():
    with open("/proc/cpuinfo", encoding="utf8") as lines:
        for line in lines:
            if line.startswith(("model name", "Model")):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def _git(root, *args):
    return subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, check=False).stdout.strip()


def describe(root, binary):
    commit = _git(root, "rev-parse", "--short=10", "HEAD") or "no-commit"
    # Results of changed sources must not pass for those of the commit.
    if _git(root, "status", "--porcelain", "--untracked-files=no"):
        commit += "-dirty"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": time.strftime("%Y-%m-%dT%H%M%S"),
        "commit": commit,
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "binary_mib": round(binary.stat().st_size / 2**20, 1),
        "load": "%.2f %.2f %.2f" % os.getloadavg(),
    }


def percentile(values, share):
    """The smallest value that at least `share` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def median(values):
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
