"""Test the recurrent state: pure steps, padding and cropping, results independent of batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_network import small

from vsexvc.nets.correspondence import Embedding
from vsexvc.nets.network import ColorizationNet, Match
from vsexvc.session import Session, network_size

pytestmark = pytest.mark.numbers


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
    session = Session(small(features_input="L", head="blend", motion=3))
    reference = session.reference(torch.rand(1, 3, 50, 47) * 50)
    state = session.start()
    for aligned in session.correspond(torch.rand(3, 1, *size) * 100, reference):
        state, ab = session.step(state, aligned)
        assert ab.shape == (1, 2, *size) and aligned.similarity.shape == (1, 1, *size)
        assert torch.isfinite(ab).all()


def test_a_state_can_be_replayed_to_the_same_bytes() -> None:
    session = Session(small(features_input="L", head="blend", motion=3))
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


@torch.inference_mode()
@pytest.mark.parametrize("head", ["blend", "tanh"])
def test_black_is_neutral_but_not_as_released(head: Any) -> None:
    session = Session(small(features_input="L", head=head))
    lab = torch.rand(1, 3, 64, 64) * 50 + 10
    L = torch.full((1, 1, 64, 64), 50.0)
    L[..., 16:32], L[..., 32:48] = 0.0, 1.0
    state, ab = session.step(session.start(), session.correspond(L, session.reference(lab))[0])
    assert state.prev_lab is not None and float(state.prev_lab[:, 1:].abs().min()) > 0.0
    factors = (1.0, 0.0, 1.0 / 2.0, 1.0) if head == "blend" else (1.0, 1.0, 1.0, 1.0)
    expected = state.prev_lab[:, 1:] * torch.tensor(factors).repeat_interleave(16)
    torch.testing.assert_close(ab, expected, rtol=1e-6, atol=0)


class TestMemory:
    """A remembered frame gives colours like a reference of its picture and colours, with a handicap."""

    def test_it_is_a_further_reference(self) -> None:
        session = Session(small(features_input="L"))
        lab = torch.rand(3, 3, 64, 64) * 50
        reference = session.reference(lab[:1])
        # Each frame alone: the features of a block of frames are rounded otherwise than those of one frame.
        first, second = (session.correspond(lab[n : n + 1, :1], reference)[0] for n in (1, 2))
        state, ab = session.step(session.start(), first)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("vsexvc.session._SURE", -1.0)
            kept = session.remember(state, first, 2)
        assert state.memory == () and len(kept.memory) == 1
        found = session.correspond(lab[2:, :1], reference, state=kept)[0]
        other = session.reference(torch.cat((lab[1:2, :1], ab), dim=1))
        expected = session.correspond(lab[2:, :1], [reference, other], None, torch.tensor([[0.0, 0.05]]))[0]
        assert torch.equal(found.warped_ab, expected.warped_ab)
        assert torch.equal(found.match.taken, expected.match.taken) and found.match.taken.shape[1] == 2
        again, _ = session.step(kept, second)
        assert again.memory == kept.memory

    @torch.inference_mode()
    def test_only_sure_cells_lend_and_the_oldest_goes(self) -> None:
        session = Session(small(features_input="L"))
        lab = torch.rand(2, 3, 64, 64) * 50
        one = session.correspond(lab[1:, :1], session.reference(lab[:1]))[0]
        state, _ = session.step(session.start(), one)
        one.match.similarity[:] = 0.79
        assert session.remember(state, one, 2) is state
        one.match.similarity[..., :16, :] = 0.81
        for _ in range(2):
            state = session.remember(state, one, 2)
        before = state.memory
        assert [keys.phi.shape[2] for keys in before] == [16 // 4 * 16] * 2
        after = session.remember(state, one, 2).memory
        assert len(after) == 2 and after[0] is before[1]


def test_propagation_from_another_size_is_refused() -> None:
    session = Session(small(features_input="L"))
    reference = session.reference(torch.rand(1, 3, 64, 80) * 50)
    aligned = session.correspond(torch.rand(1, 1, 64, 64) * 100, reference)[0]
    with pytest.raises(ValueError, match=r"previous frame must be \(64, 64\).*got \(64, 80\)"):
        session.step(session.start(reference), aligned)


class TestBlackBorders:
    """The result inside a picture does not depend on black borders around it."""

    INNER = (slice(16, 80), slice(8, 104))  # 64 x 96
    lab = torch.rand(5, 3, 64, 96, generator=torch.Generator().manual_seed(1)) * 50 + 10

    def around(self, lab: torch.Tensor) -> torch.Tensor:
        """Return the pictures within borders, (N, C, 96, 112)."""
        return torch.nn.functional.pad(lab, (8, 8, 16, 16))

    def colours(self, frames: torch.Tensor, reference: torch.Tensor, propagate: bool = False) -> list[torch.Tensor]:
        """Return similarity, warped colours and ab of each frame."""
        session = Session(small(features_input="L", head="blend", motion=3))
        held = session.reference(reference)
        state = session.start(held if propagate else None, session.area(frames))
        results = []
        for one in session.correspond(frames, held):
            state, ab = session.step(state, one)
            results.append(torch.cat((one.similarity, one.warped_ab, ab), dim=1))
        return results

    @pytest.mark.parametrize("propagate", [False, True])
    @pytest.mark.parametrize("bordered", ["frames", "reference", "both"])
    def test_inside_nothing_changes(self, bordered: str, propagate: bool) -> None:
        plain = self.colours(self.lab[1:, :1], self.lab[:1], propagate)
        frames, reference = self.lab[1:, :1], self.lab[:1]
        frames = frames if bordered == "reference" else self.around(frames)
        reference = reference if bordered == "frames" else self.around(reference)
        for one, expected in zip(self.colours(frames, reference, propagate), plain, strict=True):
            if bordered != "reference":
                outside = one.clone()
                outside[:, :, *self.INNER] = 0.0
                assert not outside.any()
                one = one[:, :, *self.INNER]
            assert torch.allclose(one, expected, atol=1e-3)

    def test_a_dark_frame_keeps_the_area_of_its_scene(self) -> None:
        session = Session(small(features_input="L", head="tanh"))
        L = self.lab[:3, :1].clone()
        L[1] *= 0.01  # a fade
        area = session.area(L)
        state, shapes = session.start(), set()
        for one in session.correspond(self.around(L), session.reference(self.lab[:1])):
            state, ab = session.step(state, one)
            assert state.prev_lab is not None and ab[:, :, *self.INNER].any()
            shapes.add(state.prev_lab.shape[2:])
        assert shapes == {(64, 96)} and area == (slice(0, 64), slice(0, 96))

    def test_a_given_area_holds(self) -> None:
        session = Session(small(features_input="L", head="tanh"))
        reference = session.reference(self.lab[:1])
        one = session.correspond(self.lab[:1, :1], reference, (slice(8, 40), slice(0, 64)))[0]
        assert one.L_centred.shape[2:] == (32, 64) and one.warped_ab.shape[2:] == (64, 96)
        assert one.similarity[:, :, 8:40, :64].all() and not one.similarity[:, :, 40:].any()

    def test_a_propagated_reference_is_cut_as_the_scene_is(self) -> None:
        """A propagated reference keeps a dark edge that is lit in the scene, and is resized to a smaller area."""
        session = Session(small(features_input="L", head="tanh"))
        lab = self.lab[:1].clone()
        lab[:, :, :8] = 0.0
        dark = session.reference(lab)
        area = slice(0, 64), slice(0, 96)
        assert dark.lab.shape[2:] == (56, 96) and session.start(dark).prev_lab is dark.lab
        cut = session.start(dark, area).prev_lab
        assert cut is not None and torch.allclose(cut[:, :1] + 50.0, lab[:, :1], atol=1e-4)
        stretched = session.start(session.reference(self.lab[:1]), (slice(16, 48), slice(0, 96))).prev_lab
        assert stretched is not None and stretched.shape == (1, 3, 32, 96)

    def test_margins_of_a_picture_without_borders_are_inside(self) -> None:
        """Padding from 100 to 104 columns counts as picture, not as border."""
        session = Session(small(features_input="L", head="tanh"))
        lab = torch.rand(1, 3, 64, 100) * 50 + 10
        aligned = session.correspond(lab[:, :1], session.reference(lab))[0]
        assert aligned.match.warped_ab.shape == (1, 2, 64, 104) and aligned.area == (slice(0, 64), slice(0, 100))
        assert bool(aligned.match.warped_ab[:, :, :, 0].any())

    def test_they_stay_neutral_and_give_no_colour(self) -> None:
        """No frame takes the red of the reference's borders or colours its own borders."""
        session = Session(small(features_input="L", head="tanh"))
        lab = torch.rand(1, 3, 60, 80) * 50 + 5
        lab[:, 1:] = torch.tensor((-20.0, -30.0)).view(1, 2, 1, 1)
        lab[:, 0, :14], lab[:, 0, 50:] = 1.0, 1.0
        lab[:, 1:, :14], lab[:, 1:, 50:] = 90.0, 90.0
        L = torch.rand(2, 1, 60, 80) * 90 + 5
        L[:, :, :, :9] = 0.5
        reference = session.reference(lab)
        state = session.start()
        for aligned in session.correspond(L, reference):
            state, ab = session.step(state, aligned)
            assert all(not x[:, :, :, :9].any() for x in (aligned.warped_ab, aligned.similarity, ab))
            inside = aligned.warped_ab[:, :, :, 9:]
            assert torch.allclose(inside, torch.tensor((-20.0, -30.0)).view(1, 2, 1, 1), atol=1e-3)


class Full(torch.nn.Module):
    """Replace a network on a device whose memory holds `room` frames; with 0 none ever fits."""

    def __init__(self, network: ColorizationNet, room: int) -> None:
        super().__init__()
        self.inner, self.room, self.asked = network, room, list[int]()

    def embed(self, lab: torch.Tensor, is_reference: bool = False) -> Embedding:
        self.asked.append(len(lab))
        if len(lab) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return self.inner.embed(lab, is_reference)

    def match(self, *args: Any, sparing: bool) -> Match:
        assert sparing == (self.room < 3)
        return self.inner.match(*args, sparing=sparing)

    def __getattr__(self, name: str) -> Any:
        if name in ("keys", "understand"):
            return getattr(self.inner, name)
        return super().__getattr__(name)


class TestOutOfMemory:
    L = torch.rand(3, 1, 64, 64) * 100

    def test_a_block_that_does_not_fit_goes_frame_by_frame_from_then_on(self) -> None:
        net = small(features_input="L", temperature=0.5)  # a high temperature does not amplify rounding of batches
        lab = torch.rand(1, 3, 64, 64) * 50
        full, roomy = Session(Full(net, 1)), Session(net)  # type: ignore[arg-type]
        expected = roomy.correspond(self.L, roomy.reference(lab))
        reference = full.reference(lab)
        for asked in ([3, 1, 1, 1], [1, 1, 1]):
            full.network.asked.clear()  # type: ignore[operator]
            found = full.correspond(self.L, reference)
            assert full.network.asked == asked
            for one, other in zip(found, expected, strict=True):
                assert all(torch.allclose(*pair, atol=1e-3) for pair in zip(one.match, other.match, strict=True))

    def test_one_retry_then_a_clear_error(self) -> None:
        full = Session(Full(small(features_input="L"), 0))  # type: ignore[arg-type]
        with pytest.raises(MemoryError, match=r"^the memory of cpu is full, .*: lower size, or use device='cpu'$"):
            full.reference(torch.rand(1, 3, 64, 64) * 50)
        assert full.network.asked == [1, 1]


class TestTransparentReferences:
    def test_only_opaque_cells_are_keys(self) -> None:
        """The keys and colours are those of the whole picture without cells that are less than half opaque."""
        session = Session(small(features_input="L"))
        lab = torch.rand(1, 3, 64, 72) * 50 + 10
        alpha = torch.zeros(1, 1, 64, 72)
        alpha[:, :, 8:40, 16:32] = 1.0
        alpha[:, :, 40:44, 16:32] = 0.4
        whole, part = session.reference(lab), session.reference(lab, alpha)
        cells = (torch.arange(2, 10)[:, None] * 18 + torch.arange(4, 8)).flatten()
        assert torch.equal(part.keys.phi, whole.keys.phi[:, :, cells])
        assert torch.equal(part.keys.lab, whole.keys.lab[:, :, cells])
        expected = whole.keys.lab[:, 1:, cells]
        aligned = session.correspond(lab[:, :1], part)[0]
        assert float(aligned.warped_ab.max()) <= float(expected.max()) + 1e-4

    def test_it_is_no_frame_to_start_from(self) -> None:
        session = Session(small(features_input="L"))
        alpha = torch.ones(1, 1, 64, 64)
        alpha[:, :, :30] = 0.0
        assert session.start(session.reference(torch.rand(1, 3, 64, 64) * 50, alpha)).prev_lab is None

    def test_nothing_within_the_borders(self) -> None:
        session = Session(small(features_input="L"))
        lab = torch.rand(1, 3, 64, 64) * 50 + 10
        lab[:, 0, :8] = lab[:, 0, 56:] = 0.0
        alpha = torch.zeros(1, 1, 64, 64)
        alpha[:, :, :8] = 1.0
        with pytest.raises(ValueError, match="must show something within its borders"):
            session.reference(lab, alpha)
