# Sourced by demo.sh and test.sh: finds a Python, makes .venv in the checkout and installs vsexvc[$EXTRA] into it.
# Afterwards ROOT is the checkout, PYTHON the environment's interpreter, and its programs (vspipe) come first on PATH.
# A complete environment is used unchanged. Messages go to stderr.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

. "$ROOT/scripts/python.sh"

# Hashes the sources of the installed package; if .venv/installed holds another hash, the package is installed again.
stamp() {
    cat "$ROOT/pyproject.toml" "$ROOT/hatch_build.py" "$ROOT"/vsexvc/native/*.[ch] | sha256sum
}

make_environment() {
    local venv=$ROOT/.venv python
    python=$(find_python) || exit 1
    # Make the environment again if its interpreter is missing or is not the requested one.
    if ! usable "$venv/bin/python" || { [ -n "${PYTHON:-}" ] && ! same_python "$venv/bin/python" "$python"; }; then
        printf 'making .venv with %s\n' "$python" >&2
        "$python" -m venv --clear "$venv" >&2 || fail "could not make $venv with $python"
    fi
    # Of the two extras, dev includes demo.
    if ! grep -qxE "($EXTRA|dev) $(stamp)" "$venv/installed" 2>/dev/null; then
        # ${CC:-} may be a command with arguments; the build hook looks for a compiler in the same order.
        command -v ${CC:-cc} >/dev/null || command -v gcc >/dev/null || command -v clang >/dev/null ||
            fail "found no C compiler: install one (Debian: apt-get install gcc libc6-dev), or name one in \$CC"
        printf 'installing vsexvc and its dependencies into .venv (torch alone takes some GB)\n' >&2
        "$venv/bin/python" -m pip install --disable-pip-version-check -e "$ROOT[$EXTRA]" >&2 || fail "pip install failed"
        printf '%s %s\n' "$EXTRA" "$(stamp)" >"$venv/installed"
    fi
    PYTHON=$venv/bin/python
    export PATH=$venv/bin:$PATH
}

# Whether environment interpreter $1 was made from interpreter $2.
same_python() {
    local where='import sys; print(sys.base_prefix, sys.version)'
    [ "$("$1" -c "$where")" = "$("$2" -c "$where")" ]
}

make_environment
