"""Test that files have at most 400 lines and functions at most 60; exceptions are named here with reasons."""

from __future__ import annotations

from pathlib import Path

from scripts.sizes import long_ones

EXCEPTIONS = {
    "vsexvc/plugin.py:colorize",  # its docstring describes 22 arguments
}


def test_nothing_is_too_long() -> None:
    assert {name for name, _ in long_ones()} <= EXCEPTIONS
    assert not list(long_ones(docstrings=False))


def test_what_is_too_long_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "vsexvc"
    folder.mkdir()
    (folder / "a.py").write_text("def f():\n" + "    x = 1\n" * 60 + "def g():\n" + "    x = 1\n" * 59)
    (folder / "b.c").write_text("\n" * 401)
    (folder / "c.py").write_text('def f():\n    """Text.\n\n    More.\n    """\n' + "    x = 1\n" * 59)
    assert list(long_ones(tmp_path)) == [("vsexvc/a.py:f", 61), ("vsexvc/b.c", 401), ("vsexvc/c.py:f", 64)]
    assert list(long_ones(tmp_path, docstrings=False)) == [("vsexvc/a.py:f", 61), ("vsexvc/b.c", 401)]
