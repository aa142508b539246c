#!/usr/bin/env bash
# demo.sh [CLIP REF [OUT]]: colours CLIP after the picture REF, into the folder OUT (default: ./demo-out).
# Without arguments it makes a grey clip from photographs first. Makes the environment (scripts/environment.sh).
set -euo pipefail
EXTRA=demo
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
exec "$PYTHON" "$ROOT/scripts/demo.py" "$@"
