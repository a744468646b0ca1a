#!/bin/bash
# Makes .venv and installs the project into it; does nothing where that has been done for this pyproject.toml.
# usage: scripts/setup.sh run|test
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:?usage: scripts/setup.sh run|test}
case $what in run) extras="" ;; test) extras="[test,lint]" ;; *) echo "run or test, not $what" >&2; exit 2 ;; esac

usable() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3 /usr/bin/python3; do
    if [ -n "$candidate" ] && command -v "$candidate" >/dev/null && usable "$candidate"; then echo "$candidate"; return; fi
  done
}

python=$(find_python)
if [ -z "$python" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends python3-venv >/dev/null
  python=$(find_python)
fi
[ -n "$python" ] || { echo "Python 3.11 or newer with the venv module is needed (Debian: apt install python3-venv)" >&2; exit 1; }

stamp=.venv/installed-$what
wanted=$(cat pyproject.toml constraints.txt | sha256sum)
for done in "$stamp" .venv/installed-test; do  # what tests need includes what running needs
  if [ "$(cat "$done" 2>/dev/null || true)" = "$wanted" ]; then exit 0; fi
done

[ -x .venv/bin/python ] || "$python" -m venv .venv
# torch first and by constraint: left to itself pip may choose a build that brings gigabytes of CUDA packages.
.venv/bin/python -m pip install --quiet -c constraints.txt torch
.venv/bin/python -m pip install --quiet -c constraints.txt -e ".$extras"
echo "$wanted" > "$stamp"
