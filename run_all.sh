#!/usr/bin/env bash
# The demo by one command: makes .venv, starts the services A and B and the gateway, says what to try, stops it all.
# What it starts is recorded in .run/PORT/ (pid files and logs), so instances with different PORTs do not meet.
# Owns the order of things; scripts/setup.sh owns .venv, scripts/processes.sh pid files, scripts/dotenv.sh settings,
# scripts/make_secret.sh the tokens' secret, scripts/full.sh the servers of --full.
set -euo pipefail
unset CDPATH

SELF="${BASH_SOURCE[0]}"
while [ -L "$SELF" ]; do # readlink -f is missing on older macOS
    TARGET="$(readlink "$SELF")"
    case "$TARGET" in /*) SELF="$TARGET" ;; *) SELF="$(dirname "$SELF")/$TARGET" ;; esac
done
ROOT="$(cd "$(dirname "$SELF")" && pwd -P)"
cd "$ROOT"

INTERPRETER="$ROOT/.venv/bin/python"
FULL=''         # set by --full
STOPPING=''     # set by a signal, once everything runs
READY_WITHIN=30 # seconds that each process has to become ready
export PYTHONUNBUFFERED=1

usage() {
    cat <<'TEXT'
usage: ./run_all.sh [--full] [-d]
       ./run_all.sh stop | status | help

  (none)     start the demo services and the gateway, show the access log, stop all on Ctrl-C
  -d         start them in the background; returns when the gateway is ready
  --full     start Redis, Consul and Jaeger too, installed where they are missing (minutes, once), everything wired
  stop       stop what was started, and nothing else
  status     say what runs; exit code 0 when all of it does
  help       show this text

Environment (also read from docs/.env and .env, see docs/.env.example):
  PORT, HOST                        where the gateway listens         (8080, 0.0.0.0)
  SERVICE_A_PORT, SERVICE_B_PORT    where the demo services listen    (8001, 8002)
  SERVICE_A_URL, SERVICE_B_URL      services of your own, instead of the demo services
  ADMIN_PORT                        where its admin API listens       (9901)
  REDIS_PORT, CONSUL_PORT           of --full; Consul takes the two ports above it too   (6379, 8500)
  JAEGER_PORT, JAEGER_UI_PORT       of --full; where Jaeger takes spans and shows them   (4318, 16686)
  REDIS_URL, CONSUL_HTTP_ADDR, JAEGER_HOST    servers of your own, with or without --full
  PYTHON                            the interpreter to make .venv with
TEXT
}

fail() {
    printf 'run_all.sh: %s\n' "$1" >&2
    exit 1
}

# shellcheck source=scripts/dotenv.sh
. "$ROOT/scripts/dotenv.sh"
# shellcheck source=scripts/processes.sh
. "$ROOT/scripts/processes.sh"
# shellcheck source=scripts/full.sh
. "$ROOT/scripts/full.sh"

read_settings() {
    if [ -z "${JWT_SECRET:-}" ]; then unset JWT_SECRET; fi # an empty one is none, and would hide the files'
    dotenv_read docs/.env
    dotenv_read .env
    PORT="$(setting PORT 8080)"
    HOST="$(setting HOST 0.0.0.0)"
    SERVICE_A_PORT="$(setting SERVICE_A_PORT 8001)"
    SERVICE_B_PORT="$(setting SERVICE_B_PORT 8002)"
    ADMIN_PORT="$(setting ADMIN_PORT 9901)"
    SERVICE_A_URL="$(setting SERVICE_A_URL "http://127.0.0.1:$SERVICE_A_PORT")"
    SERVICE_B_URL="$(setting SERVICE_B_URL "http://127.0.0.1:$SERVICE_B_PORT")"
    HEALTH_CHECK_PATH="$(setting HEALTH_CHECK_PATH /health)"
    read_server_settings
    case "$PORT" in '' | *[!0-9]*) fail "PORT=$PORT is not a port; give a number from 1 to 65535" ;; esac
    PORT=$((10#$PORT))
    RUN=".run/$PORT"
    case "$HOST" in # where this machine reaches the gateway
        0.0.0.0) BASE="http://127.0.0.1:$PORT" ;;
        '[::]' | ::) BASE="http://[::1]:$PORT" ;;
        \[*) BASE="http://$HOST:$PORT" ;;
        *:*) BASE="http://[$HOST]:$PORT" ;;
        *) BASE="http://$HOST:$PORT" ;;
    esac
}

# True when $1 is where the demo service on port $2 will be; any other URL is a service of the user's own.
is_demo() { case "${1%/}" in "http://127.0.0.1:$2" | "http://localhost:$2") ;; *) false ;; esac }

check_ports() {
    local address="${HOST#[}"
    local ports=(PORT "${address%]}" "$PORT" ADMIN_PORT 127.0.0.1 "$ADMIN_PORT")
    if is_demo "$SERVICE_A_URL" "$SERVICE_A_PORT"; then ports+=(SERVICE_A_PORT 127.0.0.1 "$SERVICE_A_PORT"); fi
    if is_demo "$SERVICE_B_URL" "$SERVICE_B_PORT"; then ports+=(SERVICE_B_PORT 127.0.0.1 "$SERVICE_B_PORT"); fi
    add_server_ports
    "$INTERPRETER" -I scripts/check_ports.py "${ports[@]}"
}

# The one who starts or watches an instance holds its runner.pid; two starts at once must not mix their pid files.
claim_run_directory() {
    mkdir -p "$RUN" 2>/dev/null || fail "cannot write to $ROOT/$RUN"
    if pid_running "$RUN/gateway.pid"; then
        fail "already running on port $PORT (gateway's pid $REPLY); stop it first: $(stop_command)"
    fi
    until pid_claim "$RUN/runner.pid"; do
        if pid_running "$RUN/runner.pid"; then
            fail "already being started on port $PORT (pid $REPLY); stop it first: $(stop_command)"
        fi
        rm -f "$RUN/runner.pid"
    done
}

stop_command() {
    if [ "$PORT" = 8080 ]; then echo "./run_all.sh stop"; else echo "PORT=$PORT ./run_all.sh stop"; fi
}

# Ends all processes of this instance, the gateway first, so that it answers what it accepted; what others ask, last.
end_all() {
    local name failed=0
    for name in tail gateway service-a service-b jaeger consul redis; do
        end "$RUN/$name.pid" || failed=1
    done
    return "$failed"
}

# However the script ends, what it started ends too. A signal to the whole group may find a child of this shell before
# it became another program, with this trap still set; such a child must do nothing, and what bash then says of its
# own confusion ("No record of process") is why children are started with stderr closed off.
clean_up() {
    [ "${BASHPID:-$$}" = "$$" ] || return 0
    trap '' INT TERM HUP
    end_all || true
    rm -f "$RUN/runner.pid"
}

# give_up MESSAGE LOG: one clear line, what the process said last, and nothing left running.
give_up() {
    printf 'run_all.sh: %s; the last lines of %s:\n' "$1" "$2" >&2
    tail -n 8 "$2" | sed 's/^/    /' >&2
    exit 1
}

# wait_until NAME COMMAND...: until the command succeeds while process NAME lives; bounded.
wait_until() {
    local name="$1" polls=0
    shift
    until "$@"; do
        pid_running "$RUN/$name.pid" || give_up "$name ended before it was ready" "$RUN/$name.log"
        [ "$polls" -lt $((READY_WITHIN * 10)) ] ||
            give_up "$name was not ready within $READY_WITHIN seconds" "$RUN/$name.log"
        sleep 0.1
        polls=$((polls + 1))
    done
}

# answers HOST PORT PATH TEXT [FIELD]: true when a GET is answered with 200 and something that holds the text.
answers() {
    # In a subshell, which alone ends when the other side goes away while this side writes (SIGPIPE).
    (
        exec 3<>"/dev/tcp/$1/$2"
        printf 'GET %s HTTP/1.0\r\nHost: 127.0.0.1\r\n%s\r\n' "$3" "${5:+$5$'\r\n'}" >&3
        IFS= read -r -t 2 -d '' answer <&3 || true # to the end of the answer
        case "$answer" in HTTP/1.?' 200 '*"$4"*) ;; *) exit 1 ;; esac
    ) 2>/dev/null
}

gateway_ready() { grep -qs '^gatewright: listening on ' "$RUN/gateway.log"; }

# Settings go to processes by their environment, never by a command line, which everybody on the machine can read. What
# the gateway is not given here, it reads from docs/.env and .env itself.

start_service() { # NAME MODULE PORT
    (
        export SERVICE_A_URL SERVICE_B_URL CONSUL_HTTP_ADDR CONSUL_HTTP_TOKEN
        export OTEL_EXPORTER_OTLP_ENDPOINT JAEGER_HOST JAEGER_PORT
        launch "$RUN/$1.pid" "$RUN/$1.log" \
            "$INTERPRETER" -m uvicorn "$2" --host 127.0.0.1 --port "$3" --timeout-graceful-shutdown 2
    )
}

start_gateway() {
    (
        export PORT HOST ADMIN_PORT SERVICE_A_URL SERVICE_B_URL
        export STATE_DIRECTORY="$ROOT/$RUN/state" # where it remembers what Consul said
        if [ -n "$FULL" ]; then export REDIS_URL CONSUL_HTTP_ADDR JAEGER_HOST JAEGER_PORT; fi
        launch "$RUN/gateway.pid" "$RUN/gateway.log" "$ROOT/.venv/bin/gatewright" run gateway.yaml
    )
}

start_all() {
    local a='' b=''
    if is_demo "$SERVICE_A_URL" "$SERVICE_A_PORT"; then a=1; fi
    if is_demo "$SERVICE_B_URL" "$SERVICE_B_PORT"; then b=1; fi
    start_servers
    if [ -n "$a" ]; then start_service service-a services.service_a.main:app "$SERVICE_A_PORT"; fi
    if [ -n "$b" ]; then start_service service-b services.service_b.main:app "$SERVICE_B_PORT"; fi
    # The gateway needs no service to be up, but one that Consul does not know yet, it would not know either.
    if [ -z "$CONSUL_HTTP_ADDR" ]; then start_gateway; fi
    if [ -n "$a" ]; then wait_for_service service-a "$SERVICE_A_PORT"; fi
    if [ -n "$b" ]; then wait_for_service service-b "$SERVICE_B_PORT"; fi
    if [ -n "$CONSUL_HTTP_ADDR" ]; then start_gateway; fi
    wait_until gateway gateway_ready
}

wait_for_service() { # NAME PORT
    wait_until "$1" answers 127.0.0.1 "$2" /health "\"$1\""
    if [ -n "$CONSUL_HTTP_ADDR" ]; then wait_until "$1" consul_has "$1"; fi
}

print_what_to_try() {
    local admin="http://127.0.0.1:$ADMIN_PORT" token='' item="$BASE/items/42"
    # shellcheck disable=SC2016
    if [ -n "$(setting ADMIN_TOKEN '')" ]; then token=' -H "Authorization: Bearer $ADMIN_TOKEN"'; fi
    printf '\nThe gateway is ready on %s (service A: %s, service B: %s).\n' "$BASE" "$SERVICE_A_URL" "$SERVICE_B_URL"
    if starts consul; then printf 'Consul is on http://127.0.0.1:%s, with a page at /ui/.\n' "$CONSUL_PORT"; fi
    if starts jaeger; then printf 'Jaeger shows traces on http://127.0.0.1:%s.\n' "$JAEGER_UI_PORT"; fi
    printf 'Logs are in %s. Try, in bash:\n\n' "$ROOT/$RUN/"
    printf 'cd %q\n' "$ROOT"
    # A token of the admin API is read where it stands, as a secret is not printed.
    # shellcheck disable=SC2016
    if [ -n "$token" ] && [ -z "${ADMIN_TOKEN:-}" ]; then
        printf 'ADMIN_TOKEN=$(. scripts/dotenv.sh; dotenv_read docs/.env; dotenv_read .env; setting ADMIN_TOKEN "")\n'
    fi
    cat <<TEXT
TOKEN=\$(.venv/bin/gatewright token)

curl $BASE/service-a/some-path
curl $BASE/service-a/some-path -H "Authorization: Bearer \$TOKEN"
curl -X POST $BASE/service-b/some-path -H "Authorization: Bearer \$TOKEN" -H 'content-type: application/json' -d '{"hello": "world"}'
curl -X DELETE $BASE/service-a/some-path -H "Authorization: Bearer \$TOKEN"
curl -N '$BASE/service-a/events?count=3' -H "Authorization: Bearer \$TOKEN"
for _ in 1 2 3; do curl -s -o /dev/null -w '%{http_code}\n' $item; done
curl $BASE$HEALTH_CHECK_PATH
curl$token $admin/status
curl$token $admin/metrics

TEXT
}

# Waits for a signal, while all processes live. The sleep runs in the background, so that a signal is seen at once.
watch_all() {
    local name
    while [ -z "$STOPPING" ]; do
        for name in gateway service-a service-b redis consul jaeger; do
            [ ! -f "$RUN/$name.pid" ] || pid_running "$RUN/$name.pid" || [ -n "$STOPPING" ] ||
                give_up "$name has ended by itself" "$RUN/$name.log"
        done
        { sleep 1 & } 2>/dev/null
        wait "$!" || true
    done
    printf '\nStopping.\n'
}

start() { # foreground | background
    claim_run_directory
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    "$ROOT/scripts/setup.sh"
    "$ROOT/scripts/make_secret.sh"
    if [ -n "$FULL" ]; then
        choose_servers
        install_servers
    fi
    end_all || fail "processes of an earlier start cannot be ended; see the pid files in $ROOT/$RUN"
    check_ports
    start_all
    print_what_to_try
    if [ "$1" = background ]; then
        printf 'Running in the background; stop with: %s\n' "$(stop_command)"
        trap - EXIT
        rm -f "$RUN/runner.pid"
        return
    fi
    trap 'STOPPING=1' INT TERM HUP # from here on a signal is the normal end
    printf 'Ctrl-C stops everything. The access log:\n'
    { tail -n 0 -f "$RUN/gateway.log" & } 2>/dev/null
    pid_write "$RUN/tail.pid" "$!" || true
    disown "$!" 2>/dev/null || true
    watch_all
}

stop() {
    local directory others=''
    if ! anything_runs; then
        for directory in .run/[0-9]*/; do
            if [ -d "$directory" ]; then
                directory="$(basename "$directory")"
                if RUN=".run/$directory" anything_runs; then others="$others PORT=$directory"; fi
            fi
        done
        rm -f "$RUN"/*.pid
        printf 'Nothing runs on port %s.%s\n' "$PORT" "${others:+ Other instances of this checkout:$others}"
        return
    fi
    # In the foreground, the script that watches ends its processes itself.
    end "$RUN/runner.pid" || fail "cannot end the script that watches port $PORT; see $ROOT/$RUN/runner.pid"
    end_all || fail "something does not end; see the pid files in $ROOT/$RUN"
    printf 'Stopped.\n'
}

anything_runs() {
    local file
    for file in "$RUN"/*.pid; do
        if pid_running "$file"; then return 0; fi
    done
    return 1
}

status() {
    local name missing=0
    for name in gateway service-a service-b redis consul jaeger; do
        case "$name" in redis | consul | jaeger) [ -f "$RUN/$name.pid" ] || continue ;; esac
        if pid_running "$RUN/$name.pid"; then
            printf '%-10s runs (pid %s)\n' "$name" "$REPLY"
        else
            printf '%-10s does not run\n' "$name"
            missing=1
        fi
    done
    return "$missing"
}

main() {
    local command='' mode=foreground
    while [ "$#" -gt 0 ]; do
        case "$1" in
            --full) FULL=1 ;;
            -d) mode=background ;;
            stop | status | help | -h | --help) [ -z "$command" ] || bad_usage "$1" && command="$1" ;;
            *) bad_usage "$1" ;;
        esac
        shift
    done
    if [ -n "$command" ] && [ "$FULL$mode" != foreground ]; then bad_usage "$command"; fi
    case "$command" in
        help | -h | --help) usage && exit ;;
    esac
    read_settings
    case "$command" in
        '') start "$mode" ;;
        stop) stop ;;
        status) status ;;
    esac
}

bad_usage() {
    printf 'run_all.sh: unexpected argument: %s\n' "$1" >&2
    usage >&2
    exit 2
}

main "$@"
