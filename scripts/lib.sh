# shellcheck shell=bash
# What the scripts share: words for people, and Debian packages when a command is missing.
# Sourced, never run. Fetches nothing by itself but through apt.

set -euo pipefail
umask 022
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
export root

say() { printf '%s\n' "$*"; }
have() { command -v "$1" >/dev/null 2>&1; }

# fail CODE LINE...: what happened first, what to do next after it.
fail() {
  local code=$1 line
  shift
  printf 'error: %s\n' "$1" >&2
  shift
  for line in "$@"; do printf '       %s\n' "$line" >&2; done
  exit "$code"
}

# at_least HAVE WANTED: compares dotted versions.
at_least() { [[ $(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1) == "$2" ]]; }

missing_packages=()

# need PACKAGE WHY CHECK...: notes PACKAGE as missing when CHECK fails.
need() {
  local package=$1 why=$2
  shift 2
  if ! "$@" >/dev/null 2>&1; then
    say "missing: $package ($why)"
    missing_packages+=("$package")
  fi
}

# Installs what `need` noted. No package manager is called when nothing is missing.
install_packages() {
  ((${#missing_packages[@]})) || return 0
  local list="${missing_packages[*]}" as_root=()
  have apt-get || fail 69 "this machine has no apt-get, so I can't install: $list" \
    "Install the packages of those names with your own package manager, then run this again."
  if ((EUID != 0)); then
    have sudo || fail 77 "root is needed once, to install: $list" \
      "Run as root: apt-get install --no-install-recommends $list"
    as_root=(sudo)
  fi
  say "installing with apt-get: $list"
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq)
  # A machine with fresh package lists needs no update; one without them fails the first try at once.
  "${apt[@]}" install -y --no-install-recommends "${missing_packages[@]}" >/dev/null 2>&1 ||
    { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "${missing_packages[@]}" >/dev/null; } ||
    fail 69 "apt-get could not install: $list" \
      "Without a network? Connect once, or install these packages from a local mirror, then run this again."
  missing_packages=()
}

# One installer at a time in this folder; the lock ends with the process.
lock_installs() {
  mkdir -p .libra
  exec 9>.libra/install.lock
  flock -n 9 || {
    say "waiting for another installation in this folder to end"
    flock -w 1800 9 || fail 75 "another installation in this folder has not ended for 30 minutes" \
      "Look for it with: fuser .libra/install.lock"
  }
}
