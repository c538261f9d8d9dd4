#!/usr/bin/env bash
# Owns .venv: makes it, fills it from the lock file, installs the project into it (editable), repairs it.
# Called by run_all.sh and the Makefile; safe to call any number of times, also at once. When nothing changed it costs
# one start of the interpreter. Errors are one line on stderr; what pip and venv said is in .run/setup.log.
# Environment: PYTHON names the interpreter to use (a path, or a name on PATH) instead of the newest one found.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
VENV="$ROOT/.venv"
STAMP="$VENV/.gatewright-stamp"
STATE="$ROOT/.run"
LOG="$STATE/setup.log"
LOCK_DIRECTORY="$STATE/setup.lock.d"
MINIMUM="3.11"

# These would make the interpreter or pip work on something else than .venv.
unset PYTHONPATH PYTHONHOME PIP_USER PIP_TARGET PIP_PREFIX

fail() {
    printf 'setup: %s\n' "$1" >&2
    exit 1
}

# Prints "version base-prefix" of interpreter $1, or fails when it does not run or cannot make a virtualenv.
IDENTIFY='
import sys, ensurepip, ssl, sysconfig, venv
supported = sys.implementation.name == "cpython" and sys.version_info >= (3, 11)
if not supported or sysconfig.get_config_var("Py_GIL_DISABLED"):
    raise SystemExit(1)
print("%d.%d.%d" % sys.version_info[:3], sys.base_prefix)
'
identify() { "$1" -I -c "$IDENTIFY" 2>/dev/null; }

# Prints what .venv must have been made from: interpreter, place of the checkout, content of the lock files.
FINGERPRINT='
import hashlib, sys
digest = hashlib.sha256()
for path in sys.argv[2:]:
    with open(path, "rb") as file:
        digest.update(file.read() + b"\0")
print("%d.%d.%d" % sys.version_info[:3], sys.base_prefix, sys.argv[1], digest.hexdigest(), sep="\n")
'
fingerprint() {
    "$VENV/bin/python" -I -c "$FINGERPRINT" "$ROOT" \
        "$ROOT/requirements.txt" "$ROOT/requirements-dev.txt" "$ROOT/pyproject.toml" 2>/dev/null
}

stamped_mode() { head -n 1 "$STAMP" 2>/dev/null || true; }

# True when .venv already is what mode $1 asks for; a dev environment serves for both.
is_current() {
    local mode now
    [ -x "$VENV/bin/python" ] && [ -x "$VENV/bin/gatewright" ] && [ -f "$STAMP" ] || return 1
    mode="$(stamped_mode)"
    [ "$mode" = "$1" ] || [ "$mode" = dev ] || return 1
    now="$(fingerprint)" || return 1
    [ "$(tail -n +2 "$STAMP")" = "$now" ]
}

# Prints every interpreter worth asking, one path a line. A pyenv shim may be among them that does not run.
candidates() {
    local minor path
    for minor in 20 19 18 17 16 15 14 13 12 11; do
        type -a -p "python3.$minor" 2>/dev/null || true
    done
    for path in "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/*/bin/python3; do
        if [ -x "$path" ]; then printf '%s\n' "$path"; fi
    done
    type -a -p python3 python 2>/dev/null || true
}

newest_python() {
    local path identity best='' best_rank=0 rank major minor patch
    while IFS= read -r path; do
        identity="$(identify "$path")" || continue
        IFS=. read -r major minor patch <<<"${identity%% *}"
        rank=$((major * 1000000 + minor * 1000 + patch))
        if [ "$rank" -gt "$best_rank" ]; then
            best_rank=$rank
            best="$path"
        fi
    done <<<"$(candidates)"
    [ -n "$best" ] && printf '%s\n' "$best"
}

# Prints the interpreter to build .venv with: $PYTHON when set, else the newest that works.
choose_python() {
    local path
    if [ -n "${PYTHON:-}" ]; then
        path="$(command -v "$PYTHON" 2>/dev/null)" || fail "PYTHON=$PYTHON is not a program that can be run"
        identify "$path" >/dev/null ||
            fail "PYTHON=$PYTHON is not a working CPython $MINIMUM or newer with venv, ensurepip and ssl"
        printf '%s\n' "$path"
    else
        newest_python || fail "no working CPython $MINIMUM or newer found (with venv, ensurepip and ssl);\
 install one, or name one with PYTHON=/path/to/python3"
    fi
}

# Only one setup at a time touches .venv. flock where there is one; else a directory, whose owner must be alive.
take_lock() {
    local owner
    if command -v flock >/dev/null 2>&1; then
        exec 9>"$STATE/setup.lock"
        flock 9
        return
    fi
    until mkdir "$LOCK_DIRECTORY" 2>/dev/null; do
        owner="$(cat "$LOCK_DIRECTORY/pid" 2>/dev/null || true)"
        if [ -n "$owner" ] && ! kill -0 "$owner" 2>/dev/null; then
            rm -rf "$LOCK_DIRECTORY"
        else
            sleep 0.2
        fi
    done
    trap 'rm -rf "$LOCK_DIRECTORY"' EXIT
    printf '%s\n' "$$" >"$LOCK_DIRECTORY/pid"
}

# True unless PYTHON asks for another interpreter than the one that .venv was made with.
is_chosen() {
    [ -z "${PYTHON:-}" ] || [ "$(identify "$VENV/bin/python")" = "$(identify "$(command -v "$PYTHON")")" ]
}

# True when the existing .venv can be installed into. It cannot when it was interrupted while it was made, when its
# interpreter is gone or another one, or when it was copied from elsewhere (its scripts name the old place).
is_usable() {
    identify "$VENV/bin/python" >/dev/null || return 1
    "$VENV/bin/python" -I -m pip --version >/dev/null 2>&1 || return 1
    is_chosen || return 1
    if [ -f "$STAMP" ]; then [ "$(sed -n 2,4p "$STAMP")" = "$(fingerprint | head -n 3)" ]; fi
}

build() {
    local python version
    python="$(choose_python)"
    version="$(identify "$python")"
    printf 'setup: making .venv with Python %s (%s)\n' "${version%% *}" "$python"
    rm -rf "$VENV"
    "$python" -I -m venv "$VENV" >>"$LOG" 2>&1 || fail "making .venv with $python failed; details in $LOG"
}

# pip_install WHAT ARGUMENT...: WHAT is for the message. Its reason is pip's own last ERROR line.
pip_install() {
    local what="$1" reason
    shift
    if "$VENV/bin/python" -I -m pip install --disable-pip-version-check --no-input "$@" >>"$LOG" 2>&1; then
        return
    fi
    reason="$(grep -E '^(ERROR|error): ' "$LOG" | tail -n 1 | cut -c 1-160 || true)"
    fail "installing $what failed${reason:+ ($reason)}; details in $LOG"
}

install() {
    local mode="$1" lock=requirements.txt
    if [ "$mode" = dev ]; then lock=requirements-dev.txt; fi
    rm -f "$STAMP"
    printf 'setup: installing %s\n' "$lock"
    pip_install "$lock" -r "$ROOT/$lock"
    pip_install "the project" --no-deps --editable "$ROOT"
    # pip compiles what it copies, not what it links; where Python may write no bytecode, each start would compile it.
    "$VENV/bin/python" -I -m compileall -q "$ROOT/src" "$ROOT/services" >>"$LOG" 2>&1 || true
    { printf '%s\n' "$mode"; fingerprint; } >"$STAMP.new"
    mv -f "$STAMP.new" "$STAMP"
}

main() {
    local mode=runtime
    case "${1:-}" in
        '') ;;
        --dev) mode=dev ;;
        *)
            printf 'usage: scripts/setup.sh [--dev]\n' >&2
            exit 2
            ;;
    esac
    if [ -n "${PYTHON:-}" ]; then choose_python >/dev/null; fi
    if is_current "$mode" && is_chosen; then return; fi
    mkdir -p "$STATE" 2>/dev/null || fail "cannot write to $STATE"
    take_lock
    if is_current "$mode" && is_chosen; then return; fi
    : >"$LOG"
    if [ "$(stamped_mode)" = dev ]; then mode=dev; fi
    if ! is_usable; then build; fi
    install "$mode"
}

main "$@"
