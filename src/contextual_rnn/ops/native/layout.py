"""A struct that the native library reads: its fields, how it is packed, and the hash by which both sides know it."""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Sequence

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
        self._formats = {field: _FORMATS[kind] for kind, field in pairs}
        assert len(self._formats) == len(pairs), f"{name}: two fields have the same name"

    def packer(self, names: Sequence[str]) -> Callable[..., bytes]:
        """A function of the values of these fields, in this order, that packs the struct with 0 in the others."""
        unknown = [name for name in names if name not in self._formats]
        assert not unknown, f"{self.name} has no fields {unknown}"
        assert len(set(names)) == len(names), f"{self.name}: a field is named twice in {names}"
        used = struct.Struct("=" + "".join(code if name in names else "8x" for name, code in self._formats.items()))
        in_order = operator.itemgetter(*[names.index(name) for name in self.names if name in names])

        def pack(*values: float) -> bytes:
            assert len(values) == len(names)
            return used.pack(*in_order(values))

        return pack


def _fnv_1a(text: str) -> int:
    """`hash_of_layout` of csrc/layout.h."""
    value = 14695981039346656037
    for byte in text.encode():
        value = (value ^ byte) * 1099511628211 % 2**64
    return value
