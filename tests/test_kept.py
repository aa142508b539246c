"""Test support/kept.py: how many bytes are counted, and which values are dropped."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vsexvc.support.kept import Kept, bytes_of


@dataclass
class Pair:
    one: Tensor
    others: tuple[Tensor | None, ...]


def test_memory_that_is_shared_counts_once() -> None:
    x = torch.empty(100, 10)  # 4 bytes each
    value = Pair(x[:50], (x[50:], None, torch.empty(7, dtype=torch.float16)))
    assert bytes_of([value, x, "text", 3, {"a": [x]}, (n for n in range(3))]) == 4000 + 14


def test_the_longest_unused_go_first() -> None:
    kept: Kept[str] = Kept(3, 0)
    for number in (1, 2, 3):
        kept[number] = str(number)
    assert kept[1] == "1"
    kept[4] = "4"
    assert list(kept) == [3, 1, 4] and 2 not in kept
    assert kept.pop(3) == "3" and kept.pop(3) is None and len(kept) == 2


def test_bytes_are_bounded_and_the_last_one_stays() -> None:
    kept: Kept[Tensor] = Kept(100, 1000)
    for number in range(10):
        kept[number] = torch.empty(60)
    assert list(kept) == [6, 7, 8, 9] and kept.size() == 960
    kept[10] = torch.empty(10_000)
    assert list(kept) == [10]
