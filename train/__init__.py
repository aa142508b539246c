"""Train the weights of vsexvc: `python -m train`. It imports vsexvc, never the reverse, and is not installed."""

import subprocess
from pathlib import Path


def commit() -> str:
    """Return the git commit of this checkout, with "-dirty" if files differ from it; "unknown" outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return result.stdout.strip()
