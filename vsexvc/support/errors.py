"""Make one-line texts of errors."""

from __future__ import annotations

_PLAIN = ("ValueError: ", "vapoursynth.Error: ")  # types whose messages say all


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its type if it has none.

    The message of a frame that Python code failed to make is a traceback: its exception counts.
    """
    lines = (str(error).strip() or type(error).__name__).splitlines()
    if lines[0].startswith("Traceback"):
        begin = max(number for number, line in enumerate(lines) if line.startswith("Traceback"))
        lines = [line for line in lines[begin + 1 :] if line.strip() and not line[0].isspace()] or lines
    line = lines[0]
    for plain in _PLAIN:
        line = line.removeprefix(plain)
    return line
