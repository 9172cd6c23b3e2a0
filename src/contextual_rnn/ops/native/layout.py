"""A struct that the native library reads: its fields, how it is packed, and the hash by which both sides know it."""

from __future__ import annotations

import operator
import struct
from collections.abc import Mapping, Sequence

# The types of csrc/layout.h, all of eight bytes: a tensor goes by its address.
_FORMATS = {"integer": "q", "real": "d", "input": "q", "indices": "q", "result": "q"}


class Layout:
    """A struct of the native library.

    `name` is the prefix of the function that exports its hash, NAME_layout. `fields` are a type and the names, with
    spaces between them, of fields of that type that follow each other: those of FIELD(type, name) in C++, in order.
    """

    def __init__(self, name: str, fields: Sequence[tuple[str, str]]):
        self.name, self.fields = name, tuple(fields)
        pairs = [(kind, field) for kind, names in fields for field in names.split()]
        self.names = tuple(field for _, field in pairs)
        self.hash = _fnv_1a("".join(f"{kind} {field};" for kind, field in pairs))
        self._zeros: dict[str, float] = dict.fromkeys(self.names, 0)
        self._values = operator.itemgetter(*self.names)
        self._struct = struct.Struct("=" + "".join(_FORMATS[kind] for kind, _ in pairs))
        assert len(self._zeros) == len(pairs), "two fields have the same name"

    def pack(self, values: Mapping[str, float]) -> bytes:
        """The struct with these values, and 0 in the other fields."""
        all_values = {**self._zeros, **values}
        assert len(all_values) == len(self.names), f"{self.name} has no fields {all_values.keys() - self._zeros.keys()}"
        return self._struct.pack(*self._values(all_values))


def _fnv_1a(text: str) -> int:
    """`hash_of_layout` of csrc/layout.h."""
    value = 14695981039346656037
    for byte in text.encode():
        value = (value ^ byte) * 1099511628211 % 2**64
    return value
