"""Test film/propose.py on drawn cards, pictures in colour, tinted pictures, and pictures that only look like cards."""

from __future__ import annotations

import numpy as np
import pytest
import vapoursynth as vs
from film import picture
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from vsexvc.film.propose import CARD, COLOURED, kind_of, propose
from vsexvc.film.source import Scene

core = vs.core
SIZE = 320, 240


def card(text: str, fill: int = 225, ground: int = 14) -> Image.Image:
    """Draw letters on a ground, with grain."""
    image = Image.new("L", SIZE, ground)
    ImageDraw.Draw(image).multiline_text((40, 90), text, fill=fill, font=ImageFont.load_default(26))
    grain = np.random.default_rng(0).normal(0, 3, (SIZE[1], SIZE[0]))
    return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)).convert("RGB")


def grey(seed: int) -> Image.Image:
    return coloured(seed).convert("L").convert("RGB")


def coloured(seed: int) -> Image.Image:
    return Image.fromarray(picture(seed, *SIZE))


def sepia(seed: int) -> Image.Image:
    level = np.asarray(grey(seed)).astype(float)[..., 0] / 255.0
    toned = np.stack([level**0.8, 0.86 * level, 0.7 * level**1.25], axis=-1)
    return Image.fromarray(np.rint(toned * 255).astype(np.uint8))


def night() -> Image.Image:
    """Draw a moon in a black sky, which is light and flat like letters."""
    image = Image.new("L", SIZE, 8)
    ImageDraw.Draw(image).ellipse((200, 30, 240, 70), fill=230)
    return image.filter(ImageFilter.GaussianBlur(1)).convert("RGB")


def spotlight() -> Image.Image:
    """Draw a grey picture in the middle of black."""
    image = Image.new("RGB", SIZE, (5, 5, 5))
    image.paste(grey(3).resize((120, 100)), (100, 70))
    return image


@pytest.mark.parametrize("text", ["Meanwhile ...", "A letter arrives\nfrom far away\nand late", "THE END"])
def test_cards(text: str) -> None:
    assert kind_of(card(text)) == CARD


@pytest.mark.parametrize(
    "image", [night(), spotlight(), card("Meanwhile", 40, 225), card("dim", 60), Image.new("RGB", SIZE)]
)
def test_what_only_looks_like_a_card(image: Image.Image) -> None:
    assert kind_of(image) == ""


@pytest.mark.parametrize("seed", range(4))
def test_colours_and_tints(seed: int) -> None:
    assert kind_of(coloured(seed)) == COLOURED
    assert kind_of(sepia(seed)) == kind_of(grey(seed)) == ""


def test_most_of_three_frames_decide() -> None:
    """A card that fades in from black is found although the first of the three frames is black."""

    def clip_of(images: list[Image.Image]) -> vs.VideoNode:
        blank = core.std.BlankClip(format=vs.RGB24, width=SIZE[0], height=SIZE[1], length=len(images))

        def fill(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
            f = f.copy()
            for plane in range(3):
                np.copyto(np.asarray(f[plane]), np.asarray(images[n])[..., plane])
            return f

        return blank.std.ModifyFrame(blank, fill)

    black = Image.new("RGB", SIZE)
    film = clip_of(
        [grey(0)] * 4 + [black] * 3 + [card("THE END")] * 5 + [coloured(1)] * 4 + [coloured(1)] + [grey(1)] * 3
    )
    scenes = [Scene(0, 4, 0.0), Scene(4, 12, 0.0), Scene(12, 16, 0.0), Scene(16, 20, 0.0)]
    assert [propose(film, scene) for scene in scenes] == ["", CARD, COLOURED, ""]
