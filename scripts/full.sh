# shellcheck shell=bash
# Redis, Consul and Jaeger for `./run_all.sh --full`: which are wanted, their programs, ports, start and readiness. All
# listen on 127.0.0.1 and keep what they hold in memory. One that a variable names elsewhere (REDIS_URL,
# CONSUL_HTTP_ADDR, JAEGER_HOST or OTEL_EXPORTER_OTLP_ENDPOINT) is the user's own and is left alone. Sourced; expects
# what scripts/dotenv.sh, scripts/processes.sh and run_all.sh define.

SERVERS=() # those that this start is to start
SERVER_PROGRAMS="${XDG_CACHE_HOME:-${HOME:-}/.cache}/gatewright/servers/bin"

read_server_settings() {
    REDIS_URL="$(setting REDIS_URL '')"
    REDIS_PORT="$(setting REDIS_PORT 6379)"
    CONSUL_HTTP_ADDR="$(setting CONSUL_HTTP_ADDR '')"
    CONSUL_HTTP_TOKEN="$(setting CONSUL_HTTP_TOKEN '')"
    CONSUL_PORT="$(setting CONSUL_PORT 8500)"
    OTEL_EXPORTER_OTLP_ENDPOINT="$(setting OTEL_EXPORTER_OTLP_ENDPOINT '')"
    JAEGER_HOST="$(setting JAEGER_HOST '')"
    JAEGER_PORT="$(setting JAEGER_PORT 4318)"
    JAEGER_UI_PORT="$(setting JAEGER_UI_PORT 16686)"
}

# Decides what is to be started, and where the gateway and the services then find it.
choose_servers() {
    if [ -z "$REDIS_URL" ]; then
        SERVERS+=(redis)
        REDIS_URL="redis://127.0.0.1:$REDIS_PORT/0"
    fi
    if [ -z "$CONSUL_HTTP_ADDR" ]; then
        if ! is_demo "$SERVICE_A_URL" "$SERVICE_A_PORT" || ! is_demo "$SERVICE_B_URL" "$SERVICE_B_PORT"; then
            fail "the Consul of --full knows the demo services only: unset SERVICE_A_URL and SERVICE_B_URL,\
 or set CONSUL_HTTP_ADDR to a Consul that has your services"
        fi
        SERVERS+=(consul)
        CONSUL_HTTP_ADDR="http://127.0.0.1:$CONSUL_PORT"
        CONSUL_HTTP_TOKEN=''
    fi
    if [ -z "$OTEL_EXPORTER_OTLP_ENDPOINT$JAEGER_HOST" ]; then
        SERVERS+=(jaeger)
        JAEGER_HOST=127.0.0.1
    fi
}

starts() { case " ${SERVERS[*]-} " in *" $1 "*) ;; *) false ;; esac }

# Appends to the array `ports`, for check_ports.py. Consul needs two ports more than the one that it is asked at.
add_server_ports() {
    if starts redis; then ports+=(REDIS_PORT 127.0.0.1 "$REDIS_PORT"); fi
    if starts consul; then
        ports+=(CONSUL_PORT 127.0.0.1 "$CONSUL_PORT")
        case "$CONSUL_PORT" in
            '' | *[!0-9]*) ;; # check_ports.py says so
            *) ports+=(CONSUL_PORT+1 127.0.0.1 "$((10#$CONSUL_PORT + 1))" CONSUL_PORT+2 127.0.0.1 "$((10#$CONSUL_PORT + 2))") ;;
        esac
    fi
    if starts jaeger; then
        ports+=(JAEGER_PORT 127.0.0.1 "$JAEGER_PORT" JAEGER_UI_PORT 127.0.0.1 "$JAEGER_UI_PORT")
    fi
}

# What cannot be had is said by scripts/servers.sh, in one line.
install_servers() {
    [ "${#SERVERS[@]}" -eq 0 ] || "$ROOT/scripts/servers.sh" "${SERVERS[@]}" || exit 1
}

# Prints where program $1 is: built by scripts/servers.sh, or on PATH.
server_program() {
    if [ -x "$SERVER_PROGRAMS/$1" ]; then echo "$SERVER_PROGRAMS/$1"; else command -v "$1"; fi
}

start_redis() {
    launch "$RUN/redis.pid" "$RUN/redis.log" "$(server_program redis-server)" --bind 127.0.0.1 --port "$REDIS_PORT" \
        --dir "$ROOT/$RUN" --save '' --appendonly no --daemonize no
}

start_consul() {
    launch "$RUN/consul.pid" "$RUN/consul.log" "$(server_program consul)" agent -dev -node=demo -log-level=warn \
        -bind=127.0.0.1 -client=127.0.0.1 -http-port="$CONSUL_PORT" -server-port="$((10#$CONSUL_PORT + 1))" \
        -serf-lan-port="$((10#$CONSUL_PORT + 2))" -serf-wan-port=-1 -dns-port=-1 -grpc-port=-1 -grpc-tls-port=-1 \
        -hcl='disable_update_check = true connect { enabled = false }'
}

# Jaeger opens more ports than it is asked at here; the system chooses them. It would trace itself without the variable.
start_jaeger() {
    (
        export OTEL_TRACES_SAMPLER=always_off
        launch "$RUN/jaeger.pid" "$RUN/jaeger.log" "$(server_program jaeger)" --log-level=warn \
            --collector.otlp.enabled=true --collector.otlp.http.host-port="127.0.0.1:$JAEGER_PORT" \
            --query.http-server.host-port="127.0.0.1:$JAEGER_UI_PORT" --query.grpc-server.host-port=127.0.0.1:0 \
            --collector.otlp.grpc.host-port=127.0.0.1:0 --collector.grpc-server.host-port=127.0.0.1:0 \
            --collector.http-server.host-port=127.0.0.1:0 --admin.http.host-port=127.0.0.1:0
    )
}

redis_ready() {
    (
        exec 3<>"/dev/tcp/127.0.0.1/$REDIS_PORT"
        printf 'PING\r\n' >&3
        IFS= read -r -t 2 answer <&3
        case "$answer" in +PONG*) ;; *) exit 1 ;; esac
    ) 2>/dev/null
}

consul_ready() { answers 127.0.0.1 "$CONSUL_PORT" /v1/status/leader '"127.0.0.1:'; }

jaeger_ready() { answers 127.0.0.1 "$JAEGER_UI_PORT" /api/services '"data"'; }

start_servers() {
    local name
    for name in ${SERVERS[@]+"${SERVERS[@]}"}; do "start_$name"; done
    for name in ${SERVERS[@]+"${SERVERS[@]}"}; do wait_until "$name" "${name}_ready"; done
}

# True when Consul tells of a healthy instance of service $1. An agent that is asked by https is not waited for.
consul_has() {
    local place="${CONSUL_HTTP_ADDR#http://}"
    place="${place%/}"
    case "$place" in https://*) return 0 ;; esac
    case "$place" in *:*) ;; *) place="$place:80" ;; esac
    answers "${place%:*}" "${place##*:}" "/v1/health/service/$1?passing=true" '"Service":' \
        "X-Consul-Token: $CONSUL_HTTP_TOKEN"
}
