#!/usr/bin/env bash
# Makes the environment (scripts/environment.sh) and runs every check: ruff, mypy, pytest in up to four processes.
# Arguments go to pytest, and then only pytest runs, in one process: scripts/test.sh tests/test_lab.py -k lab
set -euo pipefail
EXTRA=dev
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$ROOT"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # for the programs that tests start: each process of pytest has its core
if [ $# -eq 0 ]; then
    "$PYTHON" -m ruff check .
    "$PYTHON" -m mypy
    set -- -n logical --maxprocesses 4 --dist worksteal
fi
exec "$PYTHON" -m pytest "$@"
