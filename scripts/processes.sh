# shellcheck shell=bash
# Starts, recognises and ends processes for run_all.sh through pid files. Knows nothing about what the processes do.
# A pid file holds the pid and the moment when that process was born. A pid that was reused, by another program or after
# a reboot, has another birth, so no stranger is ever signalled. Sourced; works in bash 3.2, with or without /proc.

KILL_AFTER=15 # seconds that a process may take to end after TERM before it gets KILL

# Puts into REPLY what tells process $1 from any other that has or had its pid; fails when it does not run (a zombie does
# not). Where there is /proc this starts no process of its own, which a Ctrl-C at that moment would end.
birth() {
    local stat boot fields
    if [ -r /proc/self/stat ]; then
        { read -r stat <"/proc/$1/stat" && read -r boot </proc/sys/kernel/random/boot_id; } 2>/dev/null || return 1
        # The name in parentheses may hold blanks; after the last one come the state and, 19 fields on, the start time.
        read -r -a fields <<<"${stat##*) }"
        [ "${fields[0]}" != Z ] || return 1
        REPLY="$boot ${fields[19]}"
    else
        REPLY="$(trap '' INT TERM HUP && LC_ALL=C ps -o stat= -o lstart= -p "$1" 2>/dev/null)" || return 1
        case "$REPLY" in '' | Z*) return 1 ;; esac
        REPLY="${REPLY#* }"
    fi
}

# Writes pid file $1 for process $2, or fails when the process has already ended.
pid_write() {
    birth "$2" || return 1
    printf '%s\n%s\n' "$2" "$REPLY" >"$1"
}

# Like pid_write for this very script, but fails when the file exists already: of several only one succeeds.
pid_claim() {
    pid_write "$1.$$" "$$"
    if ln "$1.$$" "$1" 2>/dev/null; then
        rm -f "$1.$$"
    else
        rm -f "$1.$$"
        return 1
    fi
}

# Puts into REPLY the pid in pid file $1 when the process that the file was written for still runs; fails otherwise.
pid_running() {
    local pid born
    [ -f "$1" ] || return 1
    { read -r pid && read -r born; } <"$1" || return 1
    case "$pid" in '' | *[!0-9]*) return 1 ;; esac
    birth "$pid" || return 1
    [ "$REPLY" = "$born" ] || return 1
    REPLY="$pid"
}

DETACH='
import os, signal, sys
os.setsid()
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])
'

# launch PIDFILE LOG COMMAND...: starts the command in a session of its own, so that the terminal's Ctrl-C reaches only
# the script, which then ends everything in order, and closing the terminal ends nothing that runs in the background.
# Needs INTERPRETER, a Python; bash's own "set -m" would stop a script that was itself started with &.
launch() {
    local pidfile="$1" log="$2"
    shift 2
    : >"$log" # before the start, so that nobody takes an earlier run's lines for this one's
    { "$INTERPRETER" -I -S -c "$DETACH" "$@" </dev/null >>"$log" 2>&1 & } 2>/dev/null
    pid_write "$pidfile" "$!" || true
    disown "$!" 2>/dev/null || true # or bash reports on stderr how the process ended
}

# Ends the process of pid file $1 and removes the file: TERM, and after KILL_AFTER seconds KILL for its whole group.
# Fails when it outlives even that by 5 seconds.
end() {
    local pid polls=0
    if pid_running "$1"; then
        pid="$REPLY"
        kill -TERM "$pid" 2>/dev/null || true
        while pid_running "$1"; do
            if [ "$polls" -eq $((KILL_AFTER * 20)) ]; then
                kill -KILL -- "-$pid" 2>/dev/null || kill -KILL "$pid" 2>/dev/null || true
            elif [ "$polls" -gt $((KILL_AFTER * 20 + 100)) ]; then
                return 1
            fi
            sleep 0.05
            polls=$((polls + 1))
        done
    fi
    rm -f "$1"
}
