# Sourced by the other scripts: finds a Python. Messages go to stderr.

fail() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# Whether "$1" really starts (a pyenv shim is on PATH and does not), is 3.12 or later and can make environments.
usable() {
    "$1" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1
}

# Prints the interpreter to use: $PYTHON, else the first usable one.
find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        usable "$PYTHON" || fail "\$PYTHON ($PYTHON) is no Python of 3.12 or later with its venv module"
        printf '%s\n' "$PYTHON"
        return
    fi
    while IFS= read -r candidate; do
        if usable "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done < <(
        printf '%s\n' python3.14 python3.13 python3.12 python3
        printf '%s\n' "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.*/bin/python | sort -rV
    )
    fail "found no Python of 3.12 or later with its venv module: install one, or name one in \$PYTHON"
}
