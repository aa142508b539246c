"""Test cuts.py against a list as long as the clip."""

from __future__ import annotations

import random
import sys

from vsexvc.cuts import CUT, PLAIN, UNKNOWN, Cuts


def test_before_is_the_last_that_is_not_plain() -> None:
    rng, cuts, plain = random.Random(0), Cuts(), [CUT] + [UNKNOWN] * 9999
    for _ in range(300):
        first = rng.randrange(10_000)
        for n in range(max(1, first), min(10_000, first + rng.choice((1, 60, 5000)))):
            cuts[n] = plain[n] = CUT if rng.random() < 0.001 else PLAIN
        n = rng.randrange(10_000)
        assert cuts[n] == plain[n]
        assert cuts.before(n) == max(k for k in range(n + 1) if plain[k] != PLAIN)


def test_memory_is_that_of_what_was_looked_at() -> None:
    cuts = Cuts()
    for n in range(2_000_000_000, 2_000_000_100):
        cuts[n] = PLAIN
    assert cuts.before(2_000_000_099) == 1_999_999_999
    assert sum(sys.getsizeof(page) for page in cuts._pages.values()) < 20_000
