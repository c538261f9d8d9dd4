#!/usr/bin/env bash
# Brings the real servers that tests run against to this machine. Redis, Prometheus, nginx and Chromium come from Debian,
# installed where we are root; Consul and Jaeger, which Debian lacks, are built from the Go modules that tools/ pins.
# Called by `make servers`, .ci/run and run_all.sh; safe to call any number of times, also at once: what is there is left
# alone. What it builds is in $XDG_CACHE_HOME/gatewright/servers/bin (~/.cache by default), where tests/kit/servers.py
# looks. It starts nothing. Arguments name the servers that are wanted; none means all.
set -euo pipefail
unset CDPATH

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
CACHE="${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/gatewright/servers"
BIN="$CACHE/bin"
WORK="$CACHE/work" # what a build needs; kept when one fails, so that the next goes on there
LOG="$CACHE/build.log"
POLICY=/usr/sbin/policy-rc.d
PACKAGED=(redis-server prometheus nginx chromium) # each is the name of a program and of Debian's package with it
GO_MINIMUM=1.24.6                                 # what the go.mod files of tools/ ask for
GO_TOOLCHAIN=go1.26.8                             # fetched, as a Go module, where Go is older than that
FAILED=0

say() { printf 'servers: %s\n' "$1"; }

# What is missing is said, and the rest is tried all the same.
problem() {
    printf 'servers: %s\n' "$1" >&2
    FAILED=1
}

# Prints where program $1 is. Debian has nginx where only root's PATH leads.
find_program() { PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" command -v "$1"; }

is_root() { [ "$(id -u)" -eq 0 ]; }

# One at a time installs or builds. Without flock each run builds in a folder of its own; the results are moved into
# place whole, so the last one wins.
take_lock() {
    mkdir -p "$BIN"
    if command -v flock >/dev/null 2>&1; then
        exec 9>"$CACHE/lock"
        flock 9
    else
        WORK="$CACHE/work.$$"
    fi
}

# Debian's packages

# A server that is installed here is for tests, which start their own: the package must start none, now or at boot.
apt_install() {
    local made_policy='' name status=0
    if [ ! -e "$POLICY" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$POLICY"
        chmod 755 "$POLICY"
        made_policy=yes
    fi
    apt-get update -qq >>"$LOG" 2>&1 || true # an old list may do
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=600 "$@" \
        >>"$LOG" 2>&1 </dev/null 9>&- || status=$?
    if [ -n "$made_policy" ]; then rm -f "$POLICY"; fi
    if command -v systemctl >/dev/null 2>&1; then
        for name in "$@"; do systemctl disable -q "$name" >>"$LOG" 2>&1 || true; done
    fi
    return "$status"
}

packaged() {
    local name missing=()
    for name in "$@"; do
        find_program "$name" >/dev/null || missing+=("$name")
    done
    if [ "${#missing[@]}" -gt 0 ]; then
        if ! command -v apt-get >/dev/null 2>&1; then
            problem "missing: ${missing[*]}; install them by this system's own means (there is no apt-get here)"
        elif ! is_root; then
            problem "missing: ${missing[*]}; install them as root: apt-get install ${missing[*]}"
        else
            say "installing ${missing[*]} with apt-get"
            apt_install "${missing[@]}" || problem "apt-get could not install ${missing[*]}; details in $LOG"
        fi
    fi
    for name in "$@"; do
        if find_program "$name" >/dev/null; then say "$name is $(find_program "$name")"; fi
    done
}

# Built from Go modules

# True when version $1 (1.24.6) is $2 or newer.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# Puts into GO a Go that is new enough: the one that is here, or one that any Go can fetch as a module.
find_go() {
    local version place
    if ! GO="$(command -v go)"; then
        if is_root && command -v apt-get >/dev/null 2>&1; then
            say "installing golang-go with apt-get"
            apt_install golang-go || true
        fi
        GO="$(command -v go)" || return 1
    fi
    version="$(GOTOOLCHAIN=local "$GO" env GOVERSION)"
    if at_least "${version#go}" "$GO_MINIMUM"; then return; fi
    say "fetching $GO_TOOLCHAIN ($GO is $version)"
    place="$("$GO" env GOOS GOARCH | paste -sd -)"
    place="golang.org/toolchain@v0.0.1-$GO_TOOLCHAIN.$place"
    (cd "$WORK" && GOTOOLCHAIN=local "$GO" mod download "$place") >>"$LOG" 2>&1 || return 1
    GO="$GOMODCACHE/$place/bin/go"
    chmod -R u+x "$GOMODCACHE/$place/bin" "$GOMODCACHE/$place/pkg/tool" # modules carry no such bits
}

# Prints the version of module $2 that tools/$1 pins.
pinned() { awk -v module="$2" '$1 == module { print $2; exit }' "$ROOT/tools/$1/go.mod"; }

# build NAME PACKAGE TARGET: makes the program; what Go says goes to the log, and its last line to the user.
build() {
    local started="$SECONDS"
    mkdir -p "$WORK"
    export GOMODCACHE="$WORK/modules" GOCACHE="$WORK/objects" GOWORK=off CGO_ENABLED=0
    export GOFLAGS="${GOFLAGS:-} -modcacherw" # or it could not be removed again
    unset GOROOT GOOS GOARCH GO111MODULE
    if ! find_go; then
        problem "$1 is built with Go $GO_MINIMUM or newer, and there is none here that works; details in $LOG"
        return
    fi
    say "building $1 (minutes, but only once)"
    if (cd "$ROOT/tools/$1" && GOTOOLCHAIN=local "$GO" build -mod=readonly -buildvcs=false -trimpath -ldflags='-s -w' \
        -o "$3.$$" "$2") >>"$LOG" 2>&1 9>&- && "$3.$$" version >>"$LOG" 2>&1; then
        mv -f "$3.$$" "$3"
        say "$1 was built in $((SECONDS - started)) s"
    else
        rm -f "$3.$$"
        problem "building $1 failed ($(tail -n 1 "$LOG" | cut -c 1-160)); details in $LOG"
    fi
}

# built NAME MODULE PACKAGE: the program with its version in its name, and the link that tests start it by.
built() {
    local target
    target="$BIN/$1-$(pinned "$1" "$2")"
    if [ ! -x "$target" ]; then build "$1" "$3" "$target"; fi
    if [ -x "$target" ]; then
        ln -sfn "$(basename "$target")" "$BIN/$1.$$"
        mv -f "$BIN/$1.$$" "$BIN/$1"
        say "$1 is $target"
    fi
}

main() {
    local name wanted=("$@") debian=() go=()
    if [ "$#" -eq 0 ]; then wanted=("${PACKAGED[@]}" jaeger consul); fi
    for name in "${wanted[@]}"; do
        case "$name" in
            redis) debian+=(redis-server) ;;
            redis-server | prometheus | nginx | chromium) debian+=("$name") ;;
            jaeger | consul) go+=("$name") ;;
            *)
                printf 'usage: scripts/servers.sh [redis] [prometheus] [nginx] [chromium] [jaeger] [consul]\n' >&2
                exit 2
                ;;
        esac
    done
    take_lock
    : >"$LOG"
    if [ "${#debian[@]}" -gt 0 ]; then packaged "${debian[@]}"; fi
    for name in ${go[@]+"${go[@]}"}; do
        case "$name" in
            jaeger) built jaeger github.com/jaegertracing/jaeger github.com/jaegertracing/jaeger/cmd/all-in-one ;;
            consul) built consul github.com/hashicorp/consul github.com/hashicorp/consul ;;
        esac
    done
    if [ "$FAILED" -eq 0 ]; then rm -rf "$WORK"; fi
    exit "$FAILED"
}

main "$@"
