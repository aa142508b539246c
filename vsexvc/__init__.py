"""Colorize video by example, as a filter for VapourSynth.

`from vsexvc import colorize` is `core.exvc.Colorize`, typed; `references` reads its references from files. Importing
this package loads neither torch nor VapourSynth and has no side effects; both names are loaded at their first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vsexvc.film.references import references
    from vsexvc.plugin import colorize

__all__ = ["__version__", "colorize", "references"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "colorize":
        from vsexvc.plugin import colorize

        return colorize
    if name == "references":
        try:
            from vsexvc.film.references import references
        except ModuleNotFoundError as error:
            raise ImportError(f"references: {error.name} is not installed: pip install vsexvc[video]") from None
        return references
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
