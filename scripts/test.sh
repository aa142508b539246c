#!/usr/bin/env bash
# Makes the environment (scripts/environment.sh) and runs every check: ruff, mypy, pytest.
# Arguments go to pytest, and then only pytest runs: scripts/test.sh tests/test_lab.py -k lab
set -euo pipefail
EXTRA=dev
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$ROOT"
if [ $# -eq 0 ]; then
    "$PYTHON" -m ruff check .
    "$PYTHON" -m mypy
fi
exec "$PYTHON" -m pytest "$@"
