#!/usr/bin/env bash
# The demo by one command: makes .venv, starts the services A and B and the gateway, says what to try, stops it all.
# What it starts is recorded in .run/PORT/ (pid files and logs), so instances with different PORTs do not meet.
# Owns the order of things; scripts/setup.sh owns .venv, scripts/processes.sh pid files, scripts/dotenv.sh settings.
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
STOPPING=''     # set by a signal, once everything runs
READY_WITHIN=30 # seconds that each process has to become ready

usage() {
    cat <<'TEXT'
usage: ./run_all.sh [COMMAND]

  (none)     start the demo services and the gateway, show the access log, stop all on Ctrl-C
  -d         start them in the background; returns when the gateway is ready
  stop       stop what was started, and nothing else
  status     say what runs; exit code 0 when all of it does
  help       show this text

Environment (also read from docs/.env and .env, see docs/.env.example):
  PORT, HOST                        where the gateway listens         (8080, 0.0.0.0)
  SERVICE_A_PORT, SERVICE_B_PORT    where the demo services listen    (8001, 8002)
  SERVICE_A_URL, SERVICE_B_URL      services of your own, instead of the demo services
  ADMIN_PORT                        where its admin API listens       (9901)
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

read_settings() {
    dotenv_read docs/.env
    dotenv_read .env
    PORT="$(setting PORT 8080)"
    HOST="$(setting HOST 0.0.0.0)"
    SERVICE_A_PORT="$(setting SERVICE_A_PORT 8001)"
    SERVICE_B_PORT="$(setting SERVICE_B_PORT 8002)"
    ADMIN_PORT="$(setting ADMIN_PORT 9901)"
    SERVICE_A_URL="$(setting SERVICE_A_URL "http://127.0.0.1:$SERVICE_A_PORT")"
    SERVICE_B_URL="$(setting SERVICE_B_URL "http://127.0.0.1:$SERVICE_B_PORT")"
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

# Ends all processes of this instance, the gateway first, so that it answers what it accepted.
end_all() {
    local name failed=0
    for name in tail gateway service-a service-b; do
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

# True when service $1 answers its health check on port $2.
service_ready() {
    # In a subshell, which alone ends when the other side goes away while this side writes (SIGPIPE).
    (
        exec 3<>"/dev/tcp/127.0.0.1/$2"
        printf 'GET /health HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n' >&3
        IFS= read -r -t 2 -d '' answer <&3 || true # to the end of the answer
        case "$answer" in HTTP/1.?' 200 '*"\"$1\""*) ;; *) exit 1 ;; esac
    ) 2>/dev/null
}

gateway_ready() { grep -qs '^gatewright: listening on ' "$RUN/gateway.log"; }

start_service() { # NAME MODULE PORT
    launch "$RUN/$1.pid" "$RUN/$1.log" env ${DOTENV[@]+"${DOTENV[@]}"} PYTHONUNBUFFERED=1 \
        "$INTERPRETER" -m uvicorn "$2" --host 127.0.0.1 --port "$3" --timeout-graceful-shutdown 2
}

start_gateway() {
    local environment=(${DOTENV[@]+"${DOTENV[@]}"} "PORT=$PORT" "HOST=$HOST" "ADMIN_PORT=$ADMIN_PORT")
    environment+=("SERVICE_A_URL=$SERVICE_A_URL" "SERVICE_B_URL=$SERVICE_B_URL")
    launch "$RUN/gateway.pid" "$RUN/gateway.log" env "${environment[@]}" PYTHONUNBUFFERED=1 \
        "$ROOT/.venv/bin/gatewright" run gateway.yaml
}

start_all() {
    local a='' b=''
    if is_demo "$SERVICE_A_URL" "$SERVICE_A_PORT"; then a=1; fi
    if is_demo "$SERVICE_B_URL" "$SERVICE_B_PORT"; then b=1; fi
    # All three start at once; the gateway needs no service to be up.
    if [ -n "$a" ]; then start_service service-a services.service_a.main:app "$SERVICE_A_PORT"; fi
    if [ -n "$b" ]; then start_service service-b services.service_b.main:app "$SERVICE_B_PORT"; fi
    start_gateway
    if [ -n "$a" ]; then wait_until service-a service_ready service-a "$SERVICE_A_PORT"; fi
    if [ -n "$b" ]; then wait_until service-b service_ready service-b "$SERVICE_B_PORT"; fi
    wait_until gateway gateway_ready
}

print_what_to_try() {
    local token='' # of the admin API; by its name, as a secret is not printed
    # shellcheck disable=SC2016
    if [ -n "$(setting ADMIN_TOKEN '')" ]; then token=' -H "Authorization: Bearer $ADMIN_TOKEN"'; fi
    cat <<TEXT

The gateway is ready on $BASE (service A: $SERVICE_A_URL, service B: $SERVICE_B_URL).
Logs are in $ROOT/$RUN/. Try:

curl $BASE/service-a/some-path
curl -X POST $BASE/service-b/some-path -H 'content-type: application/json' -d '{"hello": "world"}'
curl -X DELETE $BASE/service-a/some-path
curl $BASE/items/42
curl -N '$BASE/service-a/events?count=3'
curl$token http://127.0.0.1:$ADMIN_PORT/status

TEXT
}

# Waits for a signal, while all processes live. The sleep runs in the background, so that a signal is seen at once.
watch_all() {
    local name
    while [ -z "$STOPPING" ]; do
        for name in gateway service-a service-b; do
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
    for name in gateway service-a service-b; do
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
    if [ "$#" -gt 1 ]; then
        usage >&2
        exit 2
    fi
    case "${1:-}" in
        '' | -d | stop | status) read_settings ;;
        help | -h | --help)
            usage
            exit
            ;;
        *)
            printf 'run_all.sh: unknown argument: %s\n' "$1" >&2
            usage >&2
            exit 2
            ;;
    esac
    case "${1:-}" in
        '') start foreground ;;
        -d) start background ;;
        stop) stop ;;
        status) status ;;
    esac
}

main "$@"
