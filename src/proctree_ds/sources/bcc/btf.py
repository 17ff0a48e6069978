"""Reads BTF, the kernel's own description of its types (Documentation/bpf/btf.rst, 6.18).

Only what the loader asks: where a field lies, what number a name has. A kernel describes some
150,000 types, so they are passed over quickly, and only the wanted ones are kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct, error
from typing import Final

__all__ = ["Btf", "BtfError", "Field", "Kind"]

_MAGIC: Final = 0xEB9F
_header: Final = Struct("=HBBIIIII").unpack_from
_type: Final = Struct("=III").unpack_from
_member: Final = Struct("=III").unpack_from
_pair: Final = Struct("=Ii").unpack_from
_TYPE_BYTES: Final = 12


class Kind(IntEnum):
    """Kinds of types that are asked for (enum of include/uapi/linux/btf.h)."""

    STRUCT = 4
    UNION = 5
    ENUM = 6
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    FUNCTION = 12
    TYPE_TAG = 18


_FIXED: Final = {1: 4, 3: 12, 14: 4, 17: 4}
"""Bytes that follow a type: integers, arrays, variables, declaration tags."""
_EACH: Final = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}
"""Bytes that follow for each of its members: structs, unions, enums, parameters, sections."""


class BtfError(ValueError):
    """Bytes that are no BTF, or name a type that they do not describe."""


@dataclass(frozen=True, slots=True)
class Field:
    """Where a field lies in its structure, in bits, and how many it has if it is a bit-field."""

    bit_offset: int
    bit_size: int


class Btf:
    """The types of one BTF blob. Raises `BtfError` for one that cannot be read."""

    def __init__(self, data: bytes, wanted: Collection[str]) -> None:
        """`wanted` are the names of all types that will be asked for."""
        try:
            magic, _, _, header, types, types_size, strings, strings_size = _header(data)
            if magic != _MAGIC:
                raise BtfError("it is not BTF of this machine's byte order")
            self._data = data
            self._strings = header + strings
            self._ids: dict[tuple[int, str], int] = {}
            self._places = [0]
            text = b"\0" + data[self._strings : self._strings + strings_size]
            names = {text.find(b"\0" + name.encode() + b"\0"): name for name in wanted}
            names.pop(-1, None)  # those that are not there
            self._index(header + types, header + types + types_size, names)
        except (error, KeyError, IndexError) as problem:
            raise BtfError(f"it is cut or broken ({problem})") from None

    def _index(self, place: int, end: int, names: dict[int, str]) -> None:
        data, places, find = self._data, self._places, names.get
        fixed, each = _FIXED, _EACH
        while place < end:
            name, info, _ = _type(data, place)
            kind = info >> 24 & 0x1F
            places.append(place)
            if name and (wanted := find(name)) is not None:
                self._ids.setdefault((kind, wanted), len(places) - 1)
            place += _TYPE_BYTES + fixed.get(kind, 0) + each.get(kind, 0) * (info & 0xFFFF)

    def find(self, kind: Kind, name: str) -> int | None:
        """The id of the type of this kind and name."""
        return self._ids.get((kind, name))

    def field(self, structure: str, name: str) -> Field | None:
        """Where the field lies, wherever it is nested without a name; None if there is none.

        `structure` may also be a typedef of a structure.
        """
        identity = self.find(Kind.STRUCT, structure) or self.find(Kind.TYPEDEF, structure)
        if identity is None:
            return None
        try:
            return self._field(identity, name.encode())
        except (error, IndexError, ValueError, RecursionError) as problem:
            raise BtfError(f"it is cut or broken ({problem})") from None

    def _field(self, identity: int, name: bytes) -> Field | None:
        for member, kind, offset, size in self._members(identity):
            if member == name:
                return Field(offset, size)
            if not member and (inner := self._field(kind, name)) is not None:
                return Field(offset + inner.bit_offset, inner.bit_size)
        return None

    def _members(self, identity: int) -> Iterator[tuple[bytes, int, int, int]]:
        """Name, type, bit offset and bit-field size of every member of a structure."""
        place = self._places[identity]
        _, info, inner = _type(self._data, place)
        kind = info >> 24 & 0x1F
        if kind in (Kind.TYPEDEF, Kind.CONST, Kind.VOLATILE, Kind.TYPE_TAG):
            yield from self._members(inner)
        if kind not in (Kind.STRUCT, Kind.UNION):
            return
        for index in range(info & 0xFFFF):
            name, member, offset = _member(self._data, place + _TYPE_BYTES * (index + 1))
            size = 0
            if info >> 31:  # some member is a bit-field
                offset, size = offset & 0xFFFFFF, offset >> 24
            yield self._string(name), member, offset, size

    def enumerators(self, name: str) -> dict[str, int]:
        """The names and numbers of an enumeration; empty if there is none."""
        identity = self.find(Kind.ENUM, name)
        if identity is None:
            return {}
        place = self._places[identity]
        _, info, _ = _type(self._data, place)
        found = {}
        try:
            for index in range(info & 0xFFFF):
                key, number = _pair(self._data, place + _TYPE_BYTES + 8 * index)
                found[self._string(key).decode()] = number
        except (error, ValueError) as problem:
            raise BtfError(f"it is cut or broken ({problem})") from None
        return found

    def _string(self, offset: int) -> bytes:
        start = self._strings + offset
        return self._data[start : self._data.index(b"\0", start)]
