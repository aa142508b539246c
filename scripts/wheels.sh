#!/usr/bin/env bash
# wheels.sh: makes the sdist, and from it one wheel for each system, into dist/. It needs Linux, Python 3.12 or later and
# pip; zig compiles the plugin for all systems. Arguments are platform tags of hatch_build.py, for these wheels alone.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$ROOT/scripts/python.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python=$(find_python) || exit 1
"$python" -m venv "$work/venv" || fail "could not make an environment with $python"
python=$work/venv/bin/python
"$python" -m pip install --quiet --disable-pip-version-check build hatchling 'vapoursynth>=77' 'ziglang>=0.14' >&2 ||
    fail "pip install failed"

rm -rf "$ROOT/dist"
"$python" -m build --no-isolation --sdist --outdir "$ROOT/dist" "$ROOT" >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
mkdir "$work/sdist"
tar -xzf "$ROOT"/dist/vsexvc-*.tar.gz -C "$work/sdist" --strip-components 1
[ $# -gt 0 ] || set -- $(cd "$ROOT" && "$python" -c 'import hatch_build; print(*hatch_build.TARGETS)')
for tag in "$@"; do
    printf 'building for %s\n' "$tag" >&2
    VSEXVC_TARGET=$tag "$python" -m build --no-isolation --wheel --outdir "$ROOT/dist" "$work/sdist" >"$work/log" 2>&1 ||
        { cat "$work/log" >&2; exit 1; }
done
ls -l "$ROOT/dist" | awk 'NR > 1 { printf "%6.2f MB  %s\n", $5 / 1e6, $9 }'
