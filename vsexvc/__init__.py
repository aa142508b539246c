"""vsexvc: exemplar-based video colorization for VapourSynth.

`from vsexvc import colorize` is `core.exvc.Colorize`, typed. Importing this package loads nothing else: no torch, no
VapourSynth, no side effects; `colorize` is fetched from vsexvc.plugin when it is first asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vsexvc.plugin import colorize

__all__ = ["__version__", "colorize"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "colorize":
        from vsexvc.plugin import colorize

        return colorize
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
