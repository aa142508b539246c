"""Test choice.py: each position takes the most similar reference, and the nearer one where all are alike."""

import torch

from vsexvc.nets.choice import Found, choose


def found(similarity: float | torch.Tensor, ab: tuple[float, float], meaning: float | None = None) -> Found:
    def all_over(value: float | torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(value).expand(1, 1, 6, 8).clone()

    colours = torch.tensor(ab).view(1, 2, 1, 1).repeat(1, 1, 6, 8)
    return Found(colours, all_over(similarity), None if meaning is None else all_over(meaning))


def test_the_more_similar_one_is_taken_and_nothing_of_the_other() -> None:
    taken, _ = choose([found(0.8, (60.0, 0.0)), found(0.9, (-60.0, 0.0))], None)
    assert taken.sum((0, 2, 3)).tolist() == [0.0, 48.0]


def test_the_nearer_one_is_taken_where_both_are_alike() -> None:
    for handicaps, shares in (([0.0, 0.03], [1.0, 0.0]), ([0.03, 0.0], [0.0, 1.0])):
        taken, _ = choose([found(0.9, (60.0, 0.0)), found(0.9, (-60.0, 0.0))], torch.tensor([handicaps]))
        assert taken.mean((0, 2, 3)).tolist() == shares


def test_meaning_decides_where_details_are_alike() -> None:
    taken, _ = choose([found(0.9, (60.0, 0.0), 0.2), found(0.9, (-60.0, 0.0), 0.5)], None)
    assert taken.mean((0, 2, 3)).tolist() == [0.0, 1.0]


def test_one_picture_takes_its_halves_from_two_references() -> None:
    left = torch.full((6, 8), 0.9)
    left[:, 4:] = 0.1
    taken, _ = choose([found(left, (60.0, 0.0)), found(left.flip(1), (-60.0, 0.0))], None)
    assert taken[0, 0, 0].tolist() == [1.0] * 4 + [0.0] * 4
    assert taken.mean((0, 2, 3)).tolist() == [0.5, 0.5]


def test_a_single_odd_position_follows_those_around_it() -> None:
    odd = torch.full((6, 8), 0.8)
    odd[3, 3] = 0.95
    taken, _ = choose([found(0.83, (60.0, 0.0)), found(odd, (-60.0, 0.0))], None)
    assert taken[0, 1].sum() == 0


def contested(*several: Found) -> float:
    return float(choose(several, torch.tensor([[0.0, 0.03]])).contested.mean())


def test_references_that_match_as_well_and_have_other_colours_contradict_each_other() -> None:
    one = found(0.9, (60.0, 0.0))
    assert contested(one, found(0.9, (-60.0, 0.0))) == 1.0
    assert contested(one, found(0.9, (50.0, 0.0))) == 0.0  # nearly the same colour
    assert contested(one, found(0.6, (-60.0, 0.0))) == 0.0  # another thing


def test_single_cells_do_not_contradict() -> None:
    odd = found(0.9, (60.0, 0.0))
    odd.ab[:, 0, 3, 3] = -60.0
    assert contested(found(0.9, (60.0, 0.0)), odd) == 0.0
