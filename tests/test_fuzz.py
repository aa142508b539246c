"""Test random input: each request gives a frame of the right format and size with Y bit for bit, or a one-line error.

Hypothesis draws formats, sizes, NaN and infinite samples, frame properties, arguments and orders of requests. The
default run draws the same cases every time; `-m slow` draws thousands of new ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import vapoursynth as vs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vsexvc

core = vs.core
pytestmark = pytest.mark.filterwarnings("ignore:The _ColorRange frame property:DeprecationWarning")

PATIENCE = 120.0  # seconds for a frame; a case that takes longer hangs
ONE_LINE = re.compile(r"Colorize: [^\n]+")

FORMATS = [
    core.query_video_format(family, sample_type, bits, *subsampling)
    for family, subsamplings in (
        (vs.GRAY, [(0, 0)]),
        (vs.RGB, [(0, 0)]),
        (vs.YUV, [(0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (0, 2), (2, 1), (2, 2)]),
    )
    for subsampling in subsamplings
    for sample_type, depths in ((vs.INTEGER, (8, 9, 10, 12, 14, 15, 16)), (vs.FLOAT, (16, 32)))
    for bits in depths
]
GREY = [format for format in FORMATS if format.color_family == vs.GRAY]
COLOURED = [format for format in FORMATS if format.color_family != vs.GRAY]
# Formats that no function supports.
ODD_FORMATS = [
    core.query_video_format(vs.GRAY, vs.INTEGER, 32),
    core.query_video_format(vs.RGB, vs.INTEGER, 24),
    core.query_video_format(vs.YUV, vs.INTEGER, 8, 3, 0),
    core.query_video_format(vs.YUV, vs.INTEGER, 16, 4, 4),
]
SIZES = [(1, 1), (2, 2), (3, 5), (4, 300), (300, 4), (17, 33), (64, 64), (101, 57), (1, 40), (96, 16)]
PROPERTIES = [
    "_Matrix",
    "_Transfer",
    "_Primaries",
    "_Range",
    "_ColorRange",
    "_ChromaLocation",
    "_FieldBased",
    "_Field",
    "_SARNum",
    "_SARDen",
    "_SceneChangePrev",
    "_SceneChangeNext",
    "_DurationNum",
    "ExvcCutDiff",
    "ExvcReference",
    "ExvcError",
]


# --- pictures ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """Describe a clip as data that hypothesis can shrink and print.

    Attributes:
        strange: value of some samples in float formats.
        props: properties of the frames whose number is a multiple of `every`.
    """

    format: vs.VideoFormat
    width: int
    height: int
    length: int = 1
    seed: int = 0
    strange: float = 0.0
    props: dict[str, Any] = field(default_factory=dict)
    every: int = 1

    def node(self) -> vs.VideoNode:
        width = max(1, self.width >> self.format.subsampling_w) << self.format.subsampling_w
        height = max(1, self.height >> self.format.subsampling_h) << self.format.subsampling_h
        blank = core.std.BlankClip(
            format=self.format.id, width=width, height=height, length=self.length, keep=True
        ).std.RemoveFrameProps()

        def fill(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
            f = f.copy()
            rng = np.random.default_rng((self.seed, n))
            for plane in range(f.format.num_planes):
                samples = np.asarray(f[plane])
                if f.format.sample_type == vs.INTEGER:
                    samples[:] = rng.integers(0, 1 << f.format.bits_per_sample, samples.shape, np.uint32)
                else:
                    samples[:] = rng.uniform(-0.5, 1.5, samples.shape)
                    with np.errstate(over="ignore"):
                        samples[rng.random(samples.shape) < 0.05] = self.strange
            if n % self.every == 0:
                for name, value in self.props.items():
                    f.props[name] = value
            return f

        return blank.std.ModifyFrame(blank, fill)


numbers = st.integers(-1, 24) | st.sampled_from([255, 2**31 - 1, 2**31, -(2**31) - 1, 2**62, -(2**63)])
fractions = st.sampled_from([0.0, 0.5, 1.0, 1.5, -1.0, 1e30, math.inf, -math.inf, math.nan])
words = st.sampled_from(["", "abc", "1", "left", "two\nlines", "\N{SNOWMAN}" * 300])
values: st.SearchStrategy[Any] = st.one_of(
    numbers,
    numbers,
    fractions,
    words,
    st.just(b"\xff\x00"),
    st.just([1, 2]),
    st.just([0.5, 1.5]),
    st.just(["a", "b"]),
    st.builds(lambda: core.std.BlankClip(width=4, height=4, length=1).get_frame(0)),
)
tags = st.fixed_dictionaries(
    {},
    optional={
        "_Matrix": st.sampled_from([0, 1, 2, 4, 5, 6, 7, 8, 9, 12]),
        "_Transfer": st.sampled_from([1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 17]),
        "_Primaries": st.sampled_from([1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 22]),
        "_Range": st.integers(0, 1),
        "_ChromaLocation": st.integers(0, 5),
        "_FieldBased": st.just(0),
        "_SARNum": st.integers(1, 4),
        "_SceneChangePrev": st.integers(0, 1),
    },
)
strange_samples = st.sampled_from([0.0, 0.0, math.nan, math.inf, -math.inf, 1e30, -1e30, 65504.0, 1e-45])


def pictures(
    formats: list[vs.VideoFormat], longest: int, props: st.SearchStrategy[dict[str, Any]] = tags
) -> st.SearchStrategy[Picture]:
    sizes = st.sampled_from(SIZES) | st.tuples(st.integers(1, 100), st.integers(1, 100))
    return st.builds(
        lambda format, size, length, seed, strange, props, every: Picture(
            format, *size, length, seed, strange, props, every
        ),
        st.sampled_from(formats),
        sizes,
        st.integers(1, longest),
        st.integers(0, 3),
        strange_samples,
        props,
        st.integers(1, 3),
    )


def spliced(parts: list[Picture]) -> vs.VideoNode:
    nodes = [part.node() for part in parts]
    return core.std.Splice(nodes, mismatch=True) if len(nodes) > 1 else nodes[0]


# --- requests ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    """Hold requested frames as shares of the clip's length, and whether all are requested at once."""

    shares: list[float]
    at_once: bool

    def numbers(self, length: int) -> list[int]:
        return [min(length - 1, int(share * length)) for share in self.shares]


orders = st.builds(Order, st.lists(st.floats(0.0, 1.0), min_size=1, max_size=6), st.booleans())


def said_in_one_line(error: vs.Error) -> None:
    assert ONE_LINE.fullmatch(str(error)), repr(str(error))


def judge(clip: vs.VideoNode, ref: vs.VideoNode, order: Order, native: bool, arguments: dict[str, Any]) -> None:
    """Run one case; check that its frames are right or that its error is one line."""
    function: Callable[..., vs.VideoNode] = core.exvc.Colorize if native else vsexvc.colorize
    try:
        out = function(clip, ref, **arguments)
    except vs.Error as error:
        return said_in_one_line(error)
    assert (out.width, out.height, out.num_frames, out.fps) == (clip.width, clip.height, clip.num_frames, clip.fps)
    numbers = order.numbers(clip.num_frames)
    if order.at_once:
        futures = [out.get_frame_async(n) for n in numbers]
        asks = [lambda future=future: future.result(PATIENCE) for future in futures]
    else:
        asks = [lambda n=n: out.get_frame_async(n).result(PATIENCE) for n in numbers]
    seen: dict[int, bytes] = {}
    for n, ask in zip(numbers, asks, strict=True):
        try:
            with ask() as frame, clip.get_frame(n) as source:
                check(n, frame, source, out, ref, "mask" in arguments)
                colours = b"".join(np.ascontiguousarray(frame[plane]).tobytes() for plane in range(len(frame)))
                assert seen.setdefault(n, colours) == colours
        except vs.Error as error:
            said_in_one_line(error)
    return None


def check(
    n: int, frame: vs.VideoFrame, source: vs.VideoFrame, out: vs.VideoNode, ref: vs.VideoNode, masked: bool
) -> None:
    format = frame.format
    assert (format.id, frame.width, frame.height) == (out.format.id, out.width, out.height)
    assert 0 <= frame.props["ExvcReference"] < ref.num_frames
    assert 0 <= frame.props["ExvcSceneStart"] <= n
    assert -1.001 <= frame.props["ExvcSimilarity"] <= 1.001
    depth = format.sample_type, format.bits_per_sample
    if format.color_family == vs.YUV and source.format.color_family != vs.RGB:
        if depth == (source.format.sample_type, source.format.bits_per_sample):
            assert np.ascontiguousarray(frame[0]).tobytes() == np.ascontiguousarray(source[0]).tobytes()
        new = [1, 2]
    else:
        new = list(range(len(frame)))
    # If the clip has NaN or infinite samples, only new U and V are free of them: a mask keeps old ones, and every
    # plane of RGB depends on luma.
    sane = source.format.sample_type == vs.INTEGER or all(np.isfinite(plane).all() for plane in source)
    for plane in new if sane or (new == [1, 2] and not masked) else ():
        samples = np.asarray(frame[plane])
        if format.sample_type == vs.FLOAT:
            assert np.isfinite(samples).all()
        else:
            assert samples.max() < 1 << format.bits_per_sample


# --- arguments --------------------------------------------------------------------------------------------------------

# Right and wrong values of each argument. Wrong types are only for the Python function: VapourSynth refuses them before
# it calls the native one.
RIGHT: dict[str, st.SearchStrategy[Any]] = {
    "size": st.sampled_from([64, 65, 72]),
    "saturation": st.sampled_from([0.0, 1.0, 2.5, 4.0]),
    "output": st.sampled_from(["color", "similarity", "warped"]),
    "propagate": st.booleans(),
    "sc": st.booleans(),
    "sc_threshold": st.sampled_from([0.0, 0.05, 1.0]),
    "device_index": st.sampled_from([0, 1]),
}
OUT_OF_RANGE: dict[str, st.SearchStrategy[Any]] = {
    "size": st.sampled_from([63, 0, -1, 1081, 2**31, -(2**63)]),
    "saturation": fractions,
    "output": words,
    "format": st.sampled_from([format.id for format in [*FORMATS, *ODD_FORMATS]]) | numbers,
    "sc_threshold": fractions,
    "device": words,
    "device_index": numbers,
    "ref_frames": st.lists(st.integers(-1, 13), max_size=4) | numbers,
    "model": st.sampled_from(["", "no-such", "/no/such.safetensors", "two\nlines", "~nobody/x", "x" * 5000, "m\0n"]),
}
WRONG_TYPES: st.SearchStrategy[Any] = st.one_of(
    words,
    fractions,
    st.none(),
    st.sampled_from([(), [], [None], ["a"], [0.5], {"a": 1}, {1}, b"\xff", 1j, 10**30]),
    st.builds(object),
    st.builds(lambda: core.std.BlankClip(width=4, height=4, length=1)),
    st.sampled_from([np.int64(64), np.float32(0.5), np.array([1, 2]), np.array(3)]),
)


@st.composite
def arguments(draw: st.DrawFn, native: bool) -> dict[str, Any]:
    """Draw right arguments, and sometimes one or two wrong ones."""
    chosen: dict[str, Any] = draw(st.fixed_dictionaries({}, optional=RIGHT))
    for name in draw(st.lists(st.sampled_from(sorted(OUT_OF_RANGE)), max_size=2)):
        chosen[name] = draw(OUT_OF_RANGE[name])
    if not native and draw(st.integers(0, 2)) == 0:
        name = draw(st.sampled_from(sorted(RIGHT | OUT_OF_RANGE | {"mask": None, "clip": None, "ref": None})))
        chosen[name] = draw(WRONG_TYPES)
    return {name: value for name, value in chosen.items() if not (native and value is None)}


def fuzz(case: Callable[..., None], few: int, many: int, **strategies: st.SearchStrategy[Any]) -> list[Any]:
    """Return two tests: one with the same `few` cases each time, and one with `many` new ones, marked `slow`."""

    def drawn(examples: int, derandomize: bool) -> Any:
        @settings(
            max_examples=examples,
            derandomize=derandomize,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(**strategies)
        def test(model: str, **given_case: Any) -> None:
            case(model, **given_case)

        return test

    return [drawn(few, derandomize=True), pytest.mark.slow(drawn(many, derandomize=False))]


# --- the tests --------------------------------------------------------------------------------------------------------

DEFAULTS = {"size": 64, "device": "cpu"}
bad_props = st.dictionaries(st.sampled_from(PROPERTIES), values, min_size=1, max_size=2)


def any_picture(
    model: str, clip: Picture, refs: list[Picture], order: Order, chosen: dict[str, Any], native: bool
) -> None:
    judge(clip.node(), spliced(refs), order, native, {**DEFAULTS, **chosen, "model": model})


test_pictures, test_many_pictures = fuzz(
    any_picture,
    50,
    3000,
    clip=pictures(FORMATS, 12),
    refs=st.lists(pictures(COLOURED, 2), min_size=1, max_size=3),
    order=orders,
    chosen=st.fixed_dictionaries({}, optional={name: RIGHT[name] for name in ("size", "output", "propagate", "sc")}),
    native=st.booleans(),
)


def any_property(model: str, clip: Picture, ref: Picture, propagate: bool, order: Order) -> None:
    judge(clip.node(), ref.node(), order, True, {**DEFAULTS, "model": model, "propagate": propagate})


test_properties_of_the_clip, test_many_properties_of_the_clip = fuzz(
    any_property,
    60,
    3000,
    clip=pictures(FORMATS, 3, bad_props),
    ref=pictures(COLOURED, 1),
    propagate=st.just(False),
    order=orders,
)
test_properties_of_a_reference, test_many_properties_of_a_reference = fuzz(
    any_property,
    60,
    3000,
    clip=pictures(FORMATS, 2),
    ref=pictures(COLOURED, 3, bad_props),
    propagate=st.booleans(),
    order=orders,
)


def any_argument(
    model: str, clip: Picture, refs: list[Picture], order: Order, faces: tuple[bool, dict[str, Any]]
) -> None:
    native, chosen = faces[0], {**DEFAULTS, "model": model, **faces[1]}
    node, ref = chosen.pop("clip", clip.node()), chosen.pop("ref", spliced(refs))
    if isinstance(node, vs.VideoNode) and isinstance(ref, vs.VideoNode):
        return judge(node, ref, order, native, chosen)
    with pytest.raises(vs.Error) as refused:
        vsexvc.colorize(node, ref, **chosen)
    return said_in_one_line(refused.value)


test_arguments, test_many_arguments = fuzz(
    any_argument,
    70,
    3000,
    clip=pictures([*FORMATS, *ODD_FORMATS], 4),
    refs=st.lists(pictures([*COLOURED, *COLOURED, *FORMATS, *ODD_FORMATS], 1), min_size=1, max_size=3),
    order=orders,
    faces=st.booleans().flatmap(lambda native: st.tuples(st.just(native), arguments(native))),
)


def any_mask_and_format(
    model: str, clip: Picture, mask: Picture, fits: bool, format: vs.VideoFormat | None, output: str, order: Order
) -> None:
    node = clip.node()
    if fits:
        mask = replace(mask, width=node.width, height=node.height)
    ref = core.std.BlankClip(format=vs.RGB24, width=20, height=12, length=1, color=[200, 90, 40])
    chosen = {**DEFAULTS, "model": model, "mask": mask.node(), "output": output}
    judge(node, ref, order, True, chosen if format is None else {**chosen, "format": format.id})


test_mask_and_format, test_many_masks_and_formats = fuzz(
    any_mask_and_format,
    40,
    3000,
    clip=pictures(FORMATS, 4),
    mask=pictures([*GREY * 8, *FORMATS], 3, tags | bad_props),
    fits=st.sampled_from([True] * 7 + [False]),
    format=st.sampled_from([None] * 20 + FORMATS),
    output=st.sampled_from(["color", "color", "warped", "similarity"]),
    order=orders,
)


# --- errors found, as smallest cases ----------------------------------------------------------------------------------

ONE = Order([0.0], at_once=False)
SMALL_CLIP = Picture(core.get_video_format(vs.GRAY8), 16, 12)
SMALL_REF = Picture(core.get_video_format(vs.YUV444P8), 20, 14)
FOUND_PROPERTIES: list[dict[str, Any]] = [
    {"_Range": 2},
    {"_ColorRange": -1},
    {"_Field": 2},
    {"_FieldBased": 3},
    {"_ChromaLocation": 9},
    {"_Matrix": 2**31},
    {"_Matrix": 10},
    {"_Matrix": "abc"},
    {"_Transfer": 0},
    {"_Transfer": [1, 2]},
    {"_Primaries": 3},
    {"_Primaries": 0.0},
    {"_SceneChangePrev": "abc"},
]


@pytest.mark.parametrize("props", FOUND_PROPERTIES, ids=repr)
def test_found_properties(model: str, props: dict[str, Any]) -> None:
    arguments = {**DEFAULTS, "model": model}
    judge(replace(SMALL_CLIP, props=props).node(), SMALL_REF.node(), ONE, True, arguments)
    judge(SMALL_CLIP.node(), replace(SMALL_REF, props=props).node(), ONE, True, arguments)


def test_found_matrix_without_primaries(model: str) -> None:
    """A matrix derived from the primaries of XYZ is handled."""
    ref = replace(SMALL_REF, props={"_Matrix": 12, "_Primaries": 10}).node()
    judge(SMALL_CLIP.node(), ref, ONE, True, {**DEFAULTS, "model": model})


@pytest.mark.parametrize("format", ODD_FORMATS, ids=lambda format: format.name)
@pytest.mark.parametrize("other_size", [None, 20, 32])
def test_found_formats(model: str, format: vs.VideoFormat, other_size: int | None) -> None:
    """References of unsupported formats are handled alone, and beside one of the same or another size."""
    odd = Picture(format, 32, 32)
    others = [] if other_size is None else [replace(SMALL_REF, width=other_size, height=other_size)]
    judge(SMALL_CLIP.node(), spliced([*others, odd]), ONE, True, {**DEFAULTS, "model": model})


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": "abc"},
        {"size": None},
        {"size": [64]},
        {"sc_threshold": "abc"},
        {"ref_frames": "abc"},
        {"ref_frames": [math.nan]},
        {"ref_frames": 10**30},
        {"ref_frames": np.int64(0)},
        {"model": 1},
        {"model": ["exvc-small"]},
        {"device_index": 0.5},
        {"saturation": math.nan},
        {"mask": 1},
        {"output": None},
        {"format": "YUV444P8"},
        {"ref_frames": np.array(3)},
        *({name: np.array([1, 2])} for name in ("output", "preset", "device", "backend", "precision", "trt")),
        *({name: np.array([1, 2])} for name in ("propagate", "sc", "auto_download")),
    ],
    ids=repr,
)
def test_found_arguments(model: str, wrong: dict[str, Any]) -> None:
    judge(SMALL_CLIP.node(), SMALL_REF.node(), ONE, False, {**DEFAULTS, "model": model, **wrong})


def test_found_clip_as_an_argument(model: str) -> None:
    """A clip as an argument gives a one-line error, although its printed form has several lines."""
    wrong = core.std.BlankClip(width=4, height=4, length=1)
    judge(SMALL_CLIP.node(), SMALL_REF.node(), ONE, False, {**DEFAULTS, "model": model, "format": wrong})


@pytest.mark.parametrize("sample", [math.nan, math.inf])
def test_found_references_that_are_no_numbers(model: str, sample: float) -> None:
    """The error names the argument `ref`."""
    ref = Picture(core.get_video_format(vs.RGBS), 40, 30, strange=sample).node()
    out = core.exvc.Colorize(SMALL_CLIP.node(), ref, model=model, **DEFAULTS)
    with pytest.raises(vs.Error, match=r"^Colorize: .*\bref\b.* finite"):
        out.get_frame(0)
