"""Write lossless sound that a container does not hold as PCM with the same samples.

join.py decides which streams are written.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av

from vsexvc.film.container import codec_name

_PCM = {"u8": "pcm_u8", "s16": "pcm_s16le", "s32": "pcm_s32le", "flt": "pcm_f32le", "dbl": "pcm_f64le"}
_AT_MOST_24_BITS = ("pcm_dvd", "pcm_bluray", "pcm_s24be", "pcm_s24le", "s302m")
_JITTER = 0.05  # largest gap in seconds between two packets that follow each other


class Converter:
    """Convert one stream of lossless sound to PCM of the same samples."""

    def __init__(self, target: Any, stream: Any) -> None:
        """Add the stream to the target as `added`. Raise ValueError if PCM loses bits or cannot be held."""
        own = stream.codec_context
        if own is None or not own.codec.lossless or own.codec.lossy:
            raise ValueError("only lossless sound can become PCM")
        packed = own.format.packed.name
        self.name = "pcm_s24le" if codec_name(stream) in _AT_MOST_24_BITS and packed == "s32" else _PCM[packed]
        self.added = target.file.add_stream(self.name, rate=own.sample_rate)
        self._encoder = self.added.codec_context
        self._encoder.layout, self._encoder.format = own.layout, packed
        self._encoder.time_base = self.added.time_base = Fraction(1, own.sample_rate)
        self._resampler = av.AudioResampler(format=packed)
        self._next: int | None = None

    def packets(self, packet: Any, start: Fraction) -> list[Any]:
        """Return the packets of PCM for one packet of the source. The source's last packet is empty.

        Args:
            packet: a packet of the source.
            start: seconds that are subtracted from its time.
        """
        made = []
        for frame in packet.decode():
            rate = frame.sample_rate
            if frame.pts is not None:
                seconds = Fraction(frame.pts) * Fraction(frame.time_base.numerator, frame.time_base.denominator) - start
                wanted = round(seconds * rate)
                if self._next is None or abs(wanted - self._next) > _JITTER * rate:
                    self._next = wanted
            for piece in self._resampler.resample(frame):
                piece.pts, piece.time_base = self._next or 0, Fraction(1, rate)
                self._next = piece.pts + piece.samples
                made += self._encoder.encode(piece)
        return made
