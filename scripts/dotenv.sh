# shellcheck shell=bash
# Reads NAME=value files for the scripts here and runs none of their content. Knows nothing about what the names mean.
# What it read is kept in an array that `setting` looks into, never set in this shell, so no name in a file can change
# how the script itself works. Sourced; expects a function fail MESSAGE that ends the script.

DOTENV=() # NAME=value, later entries win

# Removes blanks at both ends of $1; the result is in REPLY.
dotenv_trim() {
    REPLY="${1#"${1%%[![:space:]]*}"}"
    REPLY="${REPLY%"${REPLY##*[![:space:]]}"}"
}

# Takes quotes and comments off the raw value $1; the result is in REPLY. Fails on an unclosed quote and on text after
# a closed one.
dotenv_value() {
    local raw="$1" quote rest
    case "$raw" in
        \"* | \'*)
            quote="${raw:0:1}"
            rest="${raw:1}"
            case "$rest" in *"$quote"*) ;; *) return 1 ;; esac
            dotenv_trim "${rest#*"$quote"}"
            case "$REPLY" in '' | '#'*) ;; *) return 1 ;; esac
            REPLY="${rest%%"$quote"*}"
            ;;
        '#'*) REPLY='' ;;
        *) dotenv_trim "${raw%%[[:space:]]#*}" ;;
    esac
}

# Adds the variables of file $1 that the environment does not have. A missing file is fine, a line that is neither
# NAME=value nor a comment is an error that names the line.
dotenv_read() {
    local file="$1" line name number=0
    local assignment='^(export[[:space:]]+)?([A-Za-z_][A-Za-z0-9_]*)[[:space:]]*=(.*)$'
    [ -f "$file" ] || return 0
    [ -r "$file" ] || fail "$file cannot be read"
    while IFS= read -r line || [ -n "$line" ]; do
        number=$((number + 1))
        dotenv_trim "$line"
        case "$REPLY" in '' | '#'*) continue ;; esac
        [[ "$REPLY" =~ $assignment ]] || fail "$file, line $number: expected NAME=value or a comment"
        name="${BASH_REMATCH[2]}"
        dotenv_trim "${BASH_REMATCH[3]}"
        dotenv_value "$REPLY" || fail "$file, line $number: the quotes of $name are not closed, or text follows them"
        if ! printenv "$name" >/dev/null; then
            DOTENV+=("$name=$REPLY")
        fi
    done <"$file"
}

# Prints the value of variable $1: the environment's, else the files', else $2. Empty counts as not given, as it does
# in ${NAME:-default} of the gateway's configuration.
setting() {
    local value pair
    value="$(printenv "$1" || true)"
    if [ -z "$value" ]; then
        for pair in ${DOTENV[@]+"${DOTENV[@]}"}; do
            if [ "${pair%%=*}" = "$1" ]; then value="${pair#*=}"; fi
        done
    fi
    printf '%s\n' "${value:-$2}"
}
