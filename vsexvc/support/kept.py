"""Keep recent values in stores bounded by number and by the bytes of their tensors."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor


def bytes_of(values: Iterable[Any]) -> int:
    """Return the bytes of all tensors in these values, also inside dataclasses, tuples, lists and dicts.

    Memory that several tensors share is counted once.
    """
    blocks = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in _tensors([*values])}
    return sum(blocks.values())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)
    elif isinstance(value, dict):
        for one in value.values():
            yield from _tensors(one)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))


class Kept[V]:
    """Store values by number. It drops the least recently used ones, but never the newest."""

    def __init__(self, count: int, size: int) -> None:
        """Prepare an empty store of at most `count` values and `size` bytes; one value is kept, however large."""
        self._count, self._size = count, size
        self._values: OrderedDict[int, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[int]:
        return iter(self._values)

    def __contains__(self, key: int) -> bool:
        return key in self._values

    def __getitem__(self, key: int) -> V:
        """Return the value and mark it as used."""
        self._values.move_to_end(key)
        return self._values[key]

    def __setitem__(self, key: int, value: V) -> None:
        self._values[key] = value
        self._values.move_to_end(key)
        while len(self._values) > 1 and (len(self._values) > self._count or self.size() > self._size):
            self._values.popitem(last=False)

    def pop(self, key: int, otherwise: V | None = None) -> V | None:
        """Remove a value and return it."""
        return self._values.pop(key, otherwise)

    def size(self) -> int:
        """Return the bytes of all tensors."""
        return bytes_of(self._values.values())
