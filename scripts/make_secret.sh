#!/usr/bin/env bash
# Puts a JWT_SECRET of 32 random bytes into .env, unless the environment, .env or docs/.env has one. It prints it
# nowhere, changes nothing else in the file, and makes the file readable by its owner alone. Called by run_all.sh, and by
# hand before `uvicorn main:app` or `gatewright run` in a new checkout; safe to call any number of times, also at once.
set -euo pipefail
unset CDPATH

fail() {
    printf 'make_secret: %s\n' "$1" >&2
    exit 1
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/dotenv.sh
. scripts/dotenv.sh

# shellcheck source=scripts/processes.sh
. scripts/processes.sh
LOCK=.run/secret.lock

has_secret() {
    DOTENV=()
    dotenv_read docs/.env
    dotenv_read .env
    [ -n "$(setting JWT_SECRET '')" ]
}

# Only one at a time looks and writes. flock where there is one; else a pid file, whose owner must be alive.
take_lock() {
    mkdir -p .run 2>/dev/null || fail "cannot write to $PWD/.run"
    if command -v flock >/dev/null 2>&1; then
        exec 9>"$LOCK"
        flock 9
        return
    fi
    until pid_claim "$LOCK.pid"; do
        if pid_running "$LOCK.pid"; then sleep 0.1; else rm -f "$LOCK.pid"; fi
    done
    trap 'rm -f "$LOCK.pid"' EXIT
}

add_secret() {
    local secret before='# Signs the tokens that the demo takes; made by scripts/make_secret.sh.'$'\n'
    secret="$(head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n')"
    [ "${#secret}" -eq 64 ] || fail "/dev/urandom gave no random bytes"
    if [ -e .env ]; then
        before=''
        if [ -n "$(tail -c 1 .env)" ]; then before=$'\n'; fi # the last line has no end of its own
    fi
    umask 077
    printf '%sJWT_SECRET=%s\n' "$before" "$secret" 2>/dev/null >>.env ||
        fail "cannot write to $PWD/.env: put a line JWT_SECRET=... into it (32 random bytes or more)"
    chmod 600 .env
}

if [ -z "${JWT_SECRET:-}" ]; then unset JWT_SECRET; fi # an empty one is none, and would hide the files'
if has_secret; then exit; fi
take_lock
if has_secret; then exit; fi
add_secret
printf 'A new JWT_SECRET is in %s/.env\n' "$PWD"
