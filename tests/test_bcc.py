"""BCC as a loader, as far as it goes without a kernel: types, layouts and linking."""

from __future__ import annotations

import random
from pathlib import Path
from struct import Struct, pack

import pytest

from proctree_ds.sources.bcc.btf import Btf, BtfError, Field, Kind
from proctree_ds.sources.bcc.compiler import Compiled, Subprogram
from proctree_ds.sources.bcc.layout import NOWHERE, kernel_types, types_named_in
from proctree_ds.sources.bcc.linker import CONSTANTS, function_types, link, map_definition

VMLINUX = Path(__file__).parent.parent / "bpf" / "vmlinux.h"

instruction = Struct("=BBhi")
CALL, LOAD, MOVE, EXIT = 0x85, 0x18, 0xB7, 0x95


def code(*instructions: tuple[int, int, int]) -> bytes:
    return b"".join(instruction.pack(op, registers, 0, n) for op, registers, n in instructions)


def kernel_btf() -> bytes:
    """struct task_struct { union { int pid; unsigned char low : 3, bit : 1; }; } at byte 8, and
    enum cgroup_subsys_id { pids_cgrp_id = 7 }."""
    strings = b"\0task_struct\0pid\0bit\0int\0cgroup_subsys_id\0pids_cgrp_id\0"

    def text(name: bytes) -> int:
        return strings.index(b"\0" + name + b"\0") + 1

    types = b"".join(
        (
            pack("=IIII", text(b"int"), 1 << 24, 4, 32),
            pack("=III", 0, 1 << 31 | 5 << 24 | 2, 4),  # union
            pack("=III", text(b"pid"), 1, 0),
            pack("=III", text(b"bit"), 1, 1 << 24 | 3),
            pack("=III", text(b"task_struct"), 4 << 24 | 1, 16),
            pack("=III", 0, 2, 64),
            pack("=III", text(b"cgroup_subsys_id"), 6 << 24 | 1, 4),
            pack("=Ii", text(b"pids_cgrp_id"), 7),
        )
    )
    header = pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    return header + types + strings


def test_fields_nested_without_a_name() -> None:
    btf = Btf(kernel_btf(), {"task_struct", "cgroup_subsys_id"})
    assert btf.field("task_struct", "pid") == Field(64, 0)
    assert btf.field("task_struct", "bit") == Field(67, 1)
    assert btf.field("task_struct", "none") is None
    assert btf.field("none", "pid") is None
    assert btf.enumerators("cgroup_subsys_id") == {"pids_cgrp_id": 7}


def test_a_layout_puts_fields_where_the_kernel_has_them() -> None:
    header = (
        "struct task_struct___old {\n\tint pid;\n\tunsigned int bit : 1;\n\tchar comm[16];\n};\n"
        "enum cgroup_subsys_id {\n\tpids_cgrp_id = 11,\n\tmemory_cgrp_id = 4,\n};\n"
    )
    text = kernel_types(header, Btf(kernel_btf(), types_named_in(header)))
    assert "char before_pid[8]; int pid;" in text
    assert "char before_bit[8]; unsigned char byte_of_bit;" in text
    assert "bit_of_bit = 3" in text
    assert f"char before_comm[{NOWHERE}]; char comm[16];" in text
    assert "pids_cgrp_id = 7," in text
    assert f"memory_cgrp_id = {NOWHERE}," in text


def test_every_type_of_the_sources_is_asked_for() -> None:
    header = VMLINUX.read_text()
    names = types_named_in(header)
    assert {"task_struct", "kuid_t", "kernel_cap_struct", "inode", "bpf_func_id"} <= names
    text = kernel_types(header, Btf(kernel_btf(), names))
    assert header.count(";") - text.count(";") < 0
    assert "#pragma clang attribute" not in text


def test_btf_that_is_broken_is_told() -> None:
    whole = kernel_btf()
    rolled = random.Random(1)
    for length in range(len(whole)):
        refused_or_read(whole[:length])
    for _ in range(2000):
        broken = bytearray(whole)
        broken[rolled.randrange(len(whole))] = rolled.randrange(256)
        refused_or_read(bytes(broken))
    with pytest.raises(BtfError, match="cut or broken"):
        Btf(b"", ())
    with pytest.raises(BtfError, match="byte order"):
        Btf(whole[1::-1] + whole[2:], ())


def refused_or_read(data: bytes) -> None:
    try:
        btf = Btf(data, {"task_struct", "cgroup_subsys_id"})
        btf.field("task_struct", "pid")
        btf.enumerators("cgroup_subsys_id")
    except BtfError:
        pass


def compiled() -> Compiled:
    """main calls first, hands out second; first calls second and itself."""
    return Compiled(
        functions={
            "main": code(
                (LOAD, 1, 0),
                (0, 0, 0x50540001),
                (LOAD, 2, 12),
                (0, 0, 0x50540002),
                (CALL, 0, 0x50540000),
                (LOAD, 3, 1),
                (0, 0, 0x50540003),
                (CALL, 0, 1),
                (EXIT, 0, 0),
            ),
            "body_first": code((CALL, 0, 0x50540001), (CALL, 0, 0x50540000), (EXIT, 0, 0)),
            "body_second": code((EXIT, 0, 0)),
            "define_ring": code(
                *((MOVE, n, 10 * n) for n in range(1, 6)), (CALL, 0, 0), (EXIT, 0, 0)
            ),
        },
        programs={"main": "tp_btf/x"},
        targets={"main": 1},
        maps=["ring"],
        subprograms={"first": Subprogram(True, 2), "second": Subprogram(False, 1)},
    )


def test_linking_puts_in_maps_constants_and_functions() -> None:
    linked = link(compiled(), "main", {"ring": 31, CONSTANTS: 32})
    assert linked.functions == [(0, "main"), (9, "first"), (12, "second")]
    assert linked.code == code(
        (LOAD, 0x11, 31),
        (0, 0, 0),
        (LOAD, 0x22, 32),
        (0, 0, 12),
        (CALL, 0x10, 9 - 5),
        (LOAD, 0x43, 12 - 6),
        (0, 0, 0),
        (CALL, 0, 1),
        (EXIT, 0, 0),
        (CALL, 0x10, 12 - 10),
        (CALL, 0x10, 9 - 11),
        (EXIT, 0, 0),
        (EXIT, 0, 0),
    )


def test_a_map_is_what_its_definition_calls_with() -> None:
    like = map_definition(compiled(), "ring")
    assert (like.kind, like.key_bytes, like.value_bytes) == (10, 20, 30)
    assert (like.entries, like.flags) == (40, 50)


def test_the_types_of_functions() -> None:
    data, ids = function_types(compiled())
    btf = Btf(data, set(ids))
    assert {name: btf.find(Kind.FUNCTION, name) for name in ids} == ids
    assert set(ids) == {"main", "first", "second"}
