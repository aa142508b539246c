"""The recurrent state: pure, padded and cropped, and batches that change nothing."""

from __future__ import annotations

import pytest
import torch
from test_network import small

from vsexvc.session import Session, network_size


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        (1920, 1080, (216, 384)),
        (640, 480, (216, 288)),
        (720, 1280, (384, 216)),
        (384, 216, (216, 384)),
        (9, 7, (216, 278)),
    ],
)
def test_network_size_keeps_the_aspect(width: int, height: int, size: tuple[int, int]) -> None:
    assert network_size(width, height) == size


def test_network_size_of_a_strip_is_bounded() -> None:
    assert network_size(10_000, 2) == (216, 1728)


@pytest.mark.parametrize("size", [(64, 64), (66, 70), (71, 77), (33, 90)])
def test_any_size_comes_back_as_it_went_in(size: tuple[int, int]) -> None:
    session = Session(small(features_input="L", head="select", motion=3))
    reference = session.reference(torch.rand(1, 3, 50, 47) * 50)
    state = session.start()
    for aligned in session.correspond(torch.rand(3, 1, *size) * 100, reference):
        state, ab = session.step(state, aligned)
        assert ab.shape == (1, 2, *size) and aligned.similarity.shape == (1, 1, *size)
        assert torch.isfinite(ab).all()


def test_a_state_can_be_replayed_to_the_same_bytes() -> None:
    session = Session(small(features_input="L", head="select", motion=3))
    lab = torch.rand(5, 3, 64, 72) * 50
    reference = session.reference(lab[:1])
    aligned = session.correspond(lab[:, :1], reference)
    states, outputs = [session.start()], []
    for one in aligned:
        state, ab = session.step(states[-1], one)
        states.append(state)
        outputs.append(ab)
    for n in (4, 0, 2, 2, 3, 1):
        again, ab = session.step(states[n], aligned[n])
        assert torch.equal(ab, outputs[n])
        assert again.prev_lab is not None and states[n + 1].prev_lab is not None
        assert torch.equal(again.prev_lab, states[n + 1].prev_lab)


def test_nothing_is_shared_with_the_caller() -> None:
    session = Session(small(features_input="L"))
    L = torch.rand(2, 1, 64, 64) * 100
    aligned = session.correspond(L, session.reference(torch.rand(1, 3, 64, 64) * 50))
    before = aligned[0].L.clone()
    L.zero_()
    assert torch.equal(aligned[0].L, before)


def test_the_recurrence_and_propagation_reach_the_output() -> None:
    session = Session(small(features_input="L"))
    reference = session.reference(torch.rand(1, 3, 64, 64) * 50)
    aligned = session.correspond(torch.rand(1, 1, 64, 64) * 100, reference)[0]
    assert not torch.equal(
        session.step(session.start(), aligned)[1], session.step(session.start(reference), aligned)[1]
    )


def test_propagation_from_another_size_is_refused() -> None:
    session = Session(small(features_input="L"))
    reference = session.reference(torch.rand(1, 3, 64, 80) * 50)
    aligned = session.correspond(torch.rand(1, 1, 64, 64) * 100, reference)[0]
    with pytest.raises(ValueError, match=r"previous frame must be \(64, 64\).*got \(64, 80\)"):
        session.step(session.start(reference), aligned)
