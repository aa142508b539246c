#!/usr/bin/env bash
# demo.sh [CLIP REF [OUT]]: colours CLIP by the picture REF, into the folder OUT (default: ./demo-out).
# Without arguments it first makes a grey clip from photographs. Makes the environment (scripts/environment.sh).
set -euo pipefail
EXTRA=demo
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
exec "$PYTHON" "$ROOT/scripts/demo.py" "$@"
