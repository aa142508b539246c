"""Make self-contained HTML pages from a template of this package, its style, content as JSON, and pictures."""

from __future__ import annotations

import base64
import io
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image

from vsexvc.support.files import settle

_QUALITY = 90


def filled(template: str, content: dict[str, Any]) -> str:
    """Return the HTML of a page.

    Args:
        template: a file of the package vsexvc; in it `{STYLE}` stands for page.css, `{SCRIPT}` for page.js, and
            `{CONTENT}` for the content.
        content: what the page's script shows; JSON can hold it.
    """
    page, style, script = (
        files("vsexvc").joinpath(name).read_text(encoding="utf-8") for name in (template, "page.css", "page.js")
    )
    told = json.dumps(content).replace("<", "\\u003c")  # a name may contain "</script>"
    return page.replace("{STYLE}", style).replace("{SCRIPT}", script).replace("{CONTENT}", told)


def embedded(image: Image.Image) -> str:
    """Return the picture as a data URL: a JPEG without subsampled colours."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def save(out: Path, text: str) -> None:
    """Write a page atomically; replace an existing one. Raise OSError on failure."""
    partial = out.with_name(out.name + ".new")
    try:
        partial.write_text(text, encoding="utf-8")
        settle(partial, out)
    finally:
        partial.unlink(missing_ok=True)
