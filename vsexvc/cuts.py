"""Store which frames are known to be scene cuts; changes.py finds them.

The memory depends on the number of examined frames, not on the clip's length.
"""

from __future__ import annotations

UNKNOWN, PLAIN, CUT = range(3)

_PAGE = 4096  # frames


class Cuts:
    """Hold for each frame UNKNOWN, PLAIN, or CUT if a scene begins there. Frame 0 is a CUT."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}
        self[0] = CUT

    def __getitem__(self, n: int) -> int:
        page = self._pages.get(n // _PAGE)
        return UNKNOWN if page is None else page[n % _PAGE]

    def __setitem__(self, n: int, what: int) -> None:
        self._pages.setdefault(n // _PAGE, bytearray(_PAGE))[n % _PAGE] = what

    def before(self, n: int) -> int:
        """Return the last frame up to n, n included, that is not known to be PLAIN."""
        for number in range(n // _PAGE, -1, -1):
            page = self._pages.get(number)
            end = min(n + 1 - number * _PAGE, _PAGE)
            length = end if page is None else len(page[:end].rstrip(bytes([PLAIN])))
            if length:
                return number * _PAGE + length - 1
        return 0
