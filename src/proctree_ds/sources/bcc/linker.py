"""Makes programs of the functions that BCC compiled: calls, maps and constants are put in.

BCC leaves open what one function says of another. So bpf/bcc.bpf.h calls functions by numbers that
no helper has, and takes numbers for addresses that no map has; here, with everything at hand, each
is replaced by what it stands for. Instructions: Documentation/bpf/standardization/
instruction-set.rst; types of functions: Documentation/bpf/btf.rst, both 6.18.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from struct import Struct, pack
from typing import Final

from proctree_ds.sources.bcc.compiler import Compiled

__all__ = ["Linked", "MapDefinition", "function_types", "link", "map_definition"]

_instruction: Final = Struct("=BBhi")
"""Operation, registers, offset, number."""
_BYTES: Final = 8
_SOURCE: Final = 4 if sys.byteorder == "little" else 0
"""Where the source register stands in the byte of registers; the destination has the other half."""

_LOAD_NUMBER: Final = 0x18
"""A 64-bit number, of which the next instruction has the upper half."""
_CALL: Final = 0x85
_MOVE_NUMBER: Final = (0xB4, 0xB7)

_A_CALL: Final = 0x50540000
_A_MAP: Final = 0x50540001
_THE_CONSTANTS: Final = 0x50540002
_A_CALLBACK: Final = 0x50540003
"""As bpf/bcc.bpf.h has them."""

_FOLLOWS_CALL: Final = 1
_FOLLOWS_MAP: Final = 1
_FOLLOWS_VALUE: Final = 2
_FOLLOWS_FUNCTION: Final = 4
"""What the source register says the number is: BPF_PSEUDO_*, include/uapi/linux/bpf.h."""

CONSTANTS: Final = ""
"""The name of the map with the constants."""

_INTEGER: Final = 1
_PROTOTYPE: Final = 13
_FUNCTION: Final = 12


@dataclass(frozen=True, slots=True)
class MapDefinition:
    """What a map is like."""

    kind: int
    key_bytes: int
    value_bytes: int
    entries: int
    flags: int


@dataclass(frozen=True, slots=True)
class Linked:
    """A program ready for the kernel, and at which instruction each of its functions begins."""

    code: bytes
    functions: Sequence[tuple[int, str]]


def _instructions(code: bytes) -> list[list[int]]:
    return [list(fields) for fields in _instruction.iter_unpack(code)]


def map_definition(compiled: Compiled, name: str) -> MapDefinition:
    """What the sources say of the map: the arguments of the call in its definition."""
    registers = [0] * 16
    for operation, operands, _, number in _instructions(compiled.functions[f"define_{name}"]):
        if operation in _MOVE_NUMBER:
            registers[operands >> (4 - _SOURCE) & 15] = number
        elif operation == _CALL:
            break
    return MapDefinition(*registers[1:6])


def link(compiled: Compiled, program: str, fds: Mapping[str, int]) -> Linked:
    """The program with all that it calls. `fds` has every map's, and that of the constants."""
    names = list(compiled.subprograms)
    bodies = {program: _instructions(compiled.functions[program])}
    starts = {program: 0}
    end = len(bodies[program])
    waiting = [program]
    while waiting:
        for _, number in _references(bodies[waiting.pop()]):
            name = names[number]
            if name not in bodies:
                bodies[name] = _instructions(compiled.functions[f"body_{name}"])
                starts[name] = end
                end += len(bodies[name])
                waiting.append(name)
    for name, body in bodies.items():
        for index, number in _references(body):
            kind = _FOLLOWS_CALL if body[index][0] == _CALL else _FOLLOWS_FUNCTION
            distance = starts[names[number]] - (starts[name] + index + 1)
            _put(body, index, kind, distance)
        _put_maps(body, compiled.maps, fds)
    code = b"".join(_instruction.pack(*fields) for body in bodies.values() for fields in body)
    return Linked(code, [(start, name) for name, start in starts.items()])


def _references(body: list[list[int]]) -> Iterator[tuple[int, int]]:
    """Where other functions are named that are not put in yet, and which."""
    for index, (operation, _, _, number) in enumerate(body):
        if operation == _CALL and number >= _A_CALL:
            yield index, number - _A_CALL
        elif operation == _LOAD_NUMBER and body[index + 1][3] == _A_CALLBACK:
            yield index, number


def _put_maps(body: list[list[int]], maps: Sequence[str], fds: Mapping[str, int]) -> None:
    for index, (operation, _, _, number) in enumerate(body):
        if operation != _LOAD_NUMBER:
            continue
        if body[index + 1][3] == _A_MAP:
            _put(body, index, _FOLLOWS_MAP, fds[maps[number]])
        elif body[index + 1][3] == _THE_CONSTANTS:
            _put(body, index, _FOLLOWS_VALUE, fds[CONSTANTS])
            body[index + 1][3] = number  # how far into them


def _put(body: list[list[int]], index: int, kind: int, number: int) -> None:
    body[index][1] |= kind << _SOURCE
    body[index][3] = number
    if body[index][0] == _LOAD_NUMBER:
        body[index + 1][3] = 0


def function_types(compiled: Compiled) -> tuple[bytes, dict[str, int]]:
    """BTF for all functions, and the id of each.

    Parameters are numbers: the kernel looks at those of global functions only, which take no
    other ones here.
    """
    strings = bytearray(b"\0")
    types = bytearray()
    ids: dict[str, int] = {}

    def text(name: str) -> int:
        strings.extend(name.encode() + b"\0")
        return len(strings) - len(name) - 1

    number, parameter = text("number"), text("parameter")
    types += pack("=IIII", number, _INTEGER << 24, 8, 64)
    count = 1
    functions = [(name, False, 1) for name in compiled.programs]
    functions += [
        (name, sub.is_global, sub.parameters) for name, sub in compiled.subprograms.items()
    ]
    for name, is_global, parameters in functions:
        types += pack("=III", 0, _PROTOTYPE << 24 | parameters, 1)
        types += pack("=II", parameter, 1) * parameters
        types += pack("=III", text(name), _FUNCTION << 24 | is_global, count + 1)
        count += 2
        ids[name] = count
    header = pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    return header + bytes(types) + bytes(strings), ids
