"""Find captions inside the picture stream (EIA-608 and 708): they are lost when the picture is encoded again."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import av

from vsexvc.film.times import picture_of

_MARKS = (b"GA94\x03", b"CC\x01\xf8")  # ATSC A/53 in user data and SEI; captions of DVDs
_PLACES, _PACKETS = 8, 48  # places in the film that are searched; packets that are read at each


def has_captions(path: Path) -> bool:
    """Return whether sampled packets of the picture contain captions."""
    try:
        with av.open(str(path)) as file:
            stream = picture_of(file)
            for place in range(_PLACES):
                if place:
                    if not file.duration:
                        return False
                    file.seek((file.start_time or 0) + file.duration * place // _PLACES)
                packets = islice(file.demux(stream), _PACKETS)
                if any(mark in bytes(packet) for packet in packets for mark in _MARKS):
                    return True
    except (av.FFmpegError, OSError):
        return False  # opening the film reports what cannot be read
    return False
