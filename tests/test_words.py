"""Test the words of docstrings, comments and messages: docstrings begin with a verb, and some phrases are banned."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("vsexvc", "train", "scripts") for path in (ROOT / folder).rglob("*.py"))
NATIVE = sorted((ROOT / "vsexvc" / "native").glob("*.[ch]"))
PAGES = [*sorted((ROOT / "vsexvc").glob("*.html")), *sorted((ROOT / "scripts").glob("*.sh"))]
NAMES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "models/README.md", "train/RUNS.md")
TESTS = sorted(path for path in (ROOT / "tests").glob("*.py") if path.name != "test_words.py")
TEXTS = [*SOURCES, *TESTS, *NATIVE, *PAGES, *sorted((ROOT / "docs").rglob("*.md")), *(ROOT / name for name in NAMES)]

# A docstring may begin with these verbs; add a new verb here.
_VERBS = """
Add Age Align Allow Answer Append Apply Ask Attach Attend Augment Average Bend Blend Blur Bring Build Call Capture
Centre Change Check Choose Close Collect Colorize Colour Combine Compare Compile Compute Connect Convert Copy Correct
Correlate Count Create Crop Cut Damage Decide Declare Decode Define Delete Describe Divide Do Download Draw Drop Encode
End Enlarge Estimate Evaluate Examine Extend Fade Fill Find Fit Forget Format Give Group Hand Handle Help Hide Hold
Identify Implement Invert Join Judge Keep Let Limit List Load Lock Look Make Map Mark Match Measure Merge Mix Move Name
Note Open Order Pad Paint Parse Pass Place Play Plot Predict Prepare Pretrain Print Propose Provide Pull Put Quote Raise
Read Record Redo Reflect Register Remember Remove Rename Render Repeat Replace Report Reset Resize Retrieve Return
Rewrite Round Run Sample Save Say Scale Score Search Set Share Show Silence Smooth Soil Sort Span Split Spoil Start
State Store Sum Summarise Support Take Tell Time Train Transfer Turn Unroll Use Wait Warp Weigh Whiten Wrap Write Yield
"""
VERBS = frozenset(_VERBS.split())
TURNS = (
    r"\blies? around\b",
    r"\bwho asks\b",
    r"\bwhoever\b",
    r"\bsaid once\b",
    r"\bhangs? on\b",
    r"\bwhom to (believe|trust)\b",
    r"\bwhat is left of\b",
    r"\bcomes? along\b",
    r"\bis gone on with\b",
    r"\bof which\b",
    r"\ba room\b",
    r"\bcomes to\b",
    r"\blooks? whether\b",
    r"\bfor want of\b",
    r"\ball the same\b",
    r"\bmade anew\b",
    r"\bis there already\b",
)


def first_words(text: str) -> Iterator[tuple[int, str]]:
    """Yield line and first word of each docstring."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if docstring := ast.get_docstring(node):
            yield node.body[0].lineno, docstring.split()[0].rstrip(".,:;")


def test_docstrings_open_with_an_imperative_verb() -> None:
    found = {path: first_words(path.read_text("utf-8")) for path in SOURCES}
    assert len(found) > 100
    wrong = [(path, line, word) for path, words in found.items() for line, word in words if word not in VERBS]
    assert wrong == []


def test_what_is_no_verb_is_found() -> None:
    text = '"""Whole films."""\nclass Plan:\n    """Holds a plan."""\ndef read():\n    """Read it."""\n'
    assert [(line, word) for line, word in first_words(text) if word not in VERBS] == [(1, "Whole"), (3, "Holds")]


def turns_in(text: str) -> list[str]:
    # A phrase may span two lines.
    joined = " ".join(re.sub(r"^\s*(#|\*|/\*)", "", line).strip() for line in text.splitlines())
    return [found[0] for turn in TURNS for found in re.finditer(turn, joined, re.IGNORECASE)]


def test_no_turns_of_phrase() -> None:
    assert [(path, turn) for path in TEXTS for turn in turns_in(path.read_text("utf-8"))] == []
    assert turns_in("    # The cost hangs\n    # on the size.") == ["hangs on"]
