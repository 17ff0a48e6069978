"""The wire: what Python believes of its layout, and what it makes of good and bad bytes.

Records here are put together by hand, so that nothing in this file needs a kernel. The layout
is held against the BTF of the compiled object, if there is one.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from struct import Struct
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proctree_ds import wire_layout as wire
from proctree_ds.model import (
    Capabilities,
    Change,
    Exec,
    Exit,
    Fork,
    Namespaces,
    Snapshot,
    State,
    Task,
)
from proctree_ds.wire import Decoder, tty_name
from proctree_ds.wire_layout import first_word

OBJECT: Final = Path(wire.__file__).parent / "_bpf" / "proctree.bpf.o"

CHILD = (1000, 77)
PARENT = (500, 40)
THREAD = (600, 41)


def task(start_time: int, tid: int) -> bytes:
    return wire.TASK.pack(start_time, tid, 0)


def head(kind: int, flags: int = 0, time: int = 5000) -> bytes:
    return wire.HEADER.pack(kind, wire.VERSION, flags, time)


def identity(
    who: tuple[int, int] = CHILD,
    leader: tuple[int, int] = CHILD,
    parent: tuple[int, int] = PARENT,
    ns: tuple[int, int] = (7, 7),
) -> bytes:
    return task(*who) + task(*leader) + task(*parent) + Struct("=II").pack(*ns)


def context(uid: int = 1, cgroup_id: int = 9, tty: int = 136 << 20 | 3, login: int = 5) -> bytes:
    caps = (1, 2, 3, 4, 5)
    namespaces = (11, 12, 13, 14, 15, 16, 17, 0)
    return wire.CONTEXT.pack(
        uid, 2, 3, 4, 5, 6, *caps, 100, 101, tty, login, cgroup_id, *namespaces
    )


def file(path: bytes, flags: int = 1, device: int = 8 << 20 | 1) -> bytes:
    return wire.FILE.pack(70, 71, 72, 73, device, 0o100755, 74, 75, flags, len(path))


def fork(comm: bytes = b"sh", **options: tuple[int, int]) -> bytes:
    return head(wire.FORK) + identity(**options) + task(*PARENT) + comm.ljust(16, b"\0") + context()


def exit_(status: int, flags: int = 1 << 11, reaper: tuple[int, int] = (0, 0)) -> bytes:
    return head(wire.EXIT, flags) + identity() + task(*reaper) + Struct("=II").pack(status, 0)


def execute(
    executable: bytes = b"ls\0bin\0",
    interpreter: bytes = b"",
    cwd: bytes = b"",
    script: bytes = b"",
    argv: bytes = b"ls\0",
    env: bytes = b"",
    flags: int = 1 << 8 | 1 << 9,
    kind: int = wire.EXEC,
    cgroup: bytes = b"",
    old_tid: int = CHILD[1],
    file_flags: int = 1,
    places_flags: int = 1,
) -> bytes:
    paths = executable + interpreter + cwd
    return b"".join(
        (
            head(kind, flags),
            identity(),
            b"ls".ljust(16, b"\0"),
            context(),
            Struct("=6I").pack(old_tid, len(paths), len(script), len(cgroup), len(argv), len(env)),
            file(executable, file_flags),
            file(interpreter, 1 if interpreter else 0),
            Struct("=IIII").pack(len(cwd), 0, places_flags, 0),
            paths,
            script,
            cgroup,
            argv,
            env,
        )
    )


def cgroup(cgroup_id: int, path: bytes) -> bytes:
    return head(wire.CGROUP) + Struct("=QII").pack(cgroup_id, len(path), 0) + path


def rename(comm: bytes, flags: int = 0, **options: tuple[int, int]) -> bytes:
    return head(wire.RENAME, flags) + identity(**options) + comm.ljust(16, b"\0")


def change(
    cwd: bytes = b"d\0", root: bytes = b"", flags: int = 0, known: int = 1, uid: int = 1
) -> bytes:
    directories = Struct("=IIII").pack(len(cwd), len(root), known, 0)
    start = head(wire.CHANGE, flags) + identity() + b"me".ljust(16, b"\0") + context(uid)
    return start + directories + cwd + root


def decoded(record: bytes, decoder: Decoder | None = None) -> object:
    return (decoder or Decoder()).decode(record, 0, len(record))


def state(record: bytes) -> State:
    event = decoded(record)
    assert isinstance(event, Exec)
    assert isinstance(event.facts, State)
    return event.facts


# --------------------------------------------------------------------------------- good records


def test_a_fork() -> None:
    event = decoded(fork())
    assert isinstance(event, Fork)
    assert event.time == 5000
    assert event.task == Task(77, 1000)
    assert event.parent == Task(40, 500)
    assert event.leader is None
    assert event.creator is None
    assert (event.ns_tid, event.ns_pid, event.comm) == (7, 7, "sh")
    assert event.context is not None
    assert event.context.tty == "pts/3"
    assert event.context.login_uid == 5
    assert event.context.cgroup is None
    assert event.context.capabilities is not None
    assert event.context.capabilities.ambient == 5
    assert event.context.namespaces is not None
    assert (event.context.namespaces.pid, event.context.namespaces.time) == (11, None)


def test_a_thread_and_its_leader() -> None:
    event = decoded(fork(who=THREAD, leader=CHILD))
    assert isinstance(event, Fork)
    assert event.leader == Task(77, 1000)


def test_what_the_kernel_itself_started_has_the_idle_task_as_parent() -> None:
    event = decoded(fork(parent=(0, 0)))
    assert isinstance(event, Fork)
    assert event.parent == Task(0, 0)


@pytest.mark.parametrize(
    ("status", "code", "signal", "core"),
    [
        (0, 0, None, False),
        (3 << 8, 3, None, False),
        (255 << 8, 255, None, False),
        (9, None, 9, False),
        (11 | 0x80, None, 11, True),
    ],
)
def test_the_status_of_an_exit(
    status: int, code: int | None, signal: int | None, core: bool
) -> None:
    event = decoded(exit_(status))
    assert isinstance(event, Exit)
    assert (event.exit_code, event.exit_signal, event.core_dumped) == (code, signal, core)
    assert event.group_exit is True
    assert event.reaper is None


def test_the_reaper_of_an_exit() -> None:
    event = decoded(exit_(0, reaper=(20, 1)))
    assert isinstance(event, Exit)
    assert event.reaper == Task(1, 20)


def test_an_exec() -> None:
    record = execute(
        interpreter=b"ld.so\0lib\0usr\0", cwd=b"me\0home\0", argv=b"ls\0-l\0", env=b"A=1\0A=2\0B=\0"
    )
    facts = state(record)
    assert facts.comm == "ls"
    assert facts.image.executable is not None
    assert facts.image.executable.path == "/bin/ls"
    assert facts.image.executable.device == 0x801
    assert facts.image.interpreter is not None
    assert facts.image.interpreter.path == "/usr/lib/ld.so"
    assert facts.image.argv == ("ls", "-l")
    assert facts.image.env == {"A": "1", "B": ""}
    assert facts.image.exec_time == 5000
    assert (facts.cwd, facts.root) == ("/home/me", "/")


def test_an_exec_says_what_it_does_not_know() -> None:
    facts = state(execute(executable=b"", file_flags=0, places_flags=0, flags=0))
    assert facts.image.executable is None
    assert facts.image.argv is None
    assert facts.image.env is None
    assert (facts.cwd, facts.root) == (None, None)


def test_an_exec_by_another_thread() -> None:
    event = decoded(execute(old_tid=99))
    assert isinstance(event, Exec)
    assert event.old_tid == 99


@pytest.mark.parametrize(
    ("raw", "argv"),
    [
        (b"", ()),
        (b"\0", ("",)),
        (b"a\0\0b\0", ("a", "", "b")),
        (b"a\0cut", ("a", "cut")),
        (b"\xff\n\0", ("\udcff\n",)),
    ],
)
def test_argv(raw: bytes, argv: tuple[str, ...]) -> None:
    assert state(execute(argv=raw)).image.argv == argv


@pytest.mark.parametrize(
    ("script", "path"),
    [
        (b"/opt/run\0", "/opt/run"),
        (b"run\0", "/home/me/run"),
        (b"./run\0", "/home/me/run"),
        (b"../run\0", "/home/me/../run"),
    ],
)
def test_a_script(script: bytes, path: str) -> None:
    facts = state(execute(script=script, cwd=b"me\0home\0", flags=1 << 8 | 1 << 10))
    assert facts.image.script == path
    assert facts.image.interpreter is facts.image.executable


def test_a_memfd_keeps_the_name_that_the_kernel_gives_it() -> None:
    image = state(execute(executable=b"memfd:x\0", file_flags=1 | 2)).image
    assert image.executable is not None
    assert image.executable.path == "/memfd:x (deleted)"
    assert image.executable.is_memfd is True
    assert image.executable.is_deleted is False


def test_a_path_without_its_beginning() -> None:
    image = state(execute(file_flags=1 | 1 << 5, flags=1)).image
    assert image.executable is not None
    assert image.executable.path == "bin/ls"
    assert image.executable.path_truncated is True


def test_what_was_cut_is_counted() -> None:
    decoder = Decoder()
    decoded(execute(flags=1 << 8 | 1 << 6), decoder)
    decoded(execute(flags=1 << 8 | 1 << 6 | 1 << 7), decoder)
    assert {name: n for name, n in decoder.truncated.items() if n} == {"argv": 2, "env": 1}


def test_a_snapshot_says_only_what_is_known() -> None:
    decoder = Decoder()
    record = execute(kind=wire.SNAPSHOT, cgroup=b"b\0a\0", flags=1 << 8 | 1 << 12)
    event = decoded(record, decoder)
    assert isinstance(event, Snapshot)
    assert event.given["context"].cgroup == "/a/b"
    assert event.given["argv"] == ("ls",)
    assert event.subreaper is True
    assert "env" not in event.given
    assert "interpreter" not in event.given
    assert decoder.pictures(record * 3) == [event] * 3


def test_the_picture_of_a_process_without_its_leader_says_that_the_leader_has_ended() -> None:
    flagged = execute(kind=wire.SNAPSHOT, flags=1 << 14)
    plain = execute(kind=wire.SNAPSHOT, flags=0)
    told = Decoder().pictures(flagged + plain)
    assert list(map(type, told)) == [Snapshot, Exit, Snapshot]
    end = told[1]
    assert isinstance(end, Exit)
    assert (end.task, end.time) == (told[0].task, told[0].time)
    assert (end.group_exit, end.origin) == (False, "iterator")


def test_a_kernel_thread_executes_nothing() -> None:
    record = execute(kind=wire.SNAPSHOT, executable=b"", file_flags=0, argv=b"", flags=1 << 13)
    event = decoded(record)
    assert isinstance(event, Snapshot)
    assert event.given["executable"] is None
    assert event.given["argv"] == ()


def test_the_path_of_a_cgroup_that_was_announced() -> None:
    decoder = Decoder()
    before = decoded(fork(), decoder)
    assert decoded(cgroup(9, b"docker-" + b"a" * 64 + b".scope\0x\0"), decoder) is None
    after = decoded(fork(), decoder)
    assert isinstance(before, Fork)
    assert isinstance(after, Fork)
    assert before.context is not None
    assert after.context is not None
    assert before.context.cgroup is None
    assert after.context.cgroup == "/x/docker-" + "a" * 64 + ".scope"
    assert after.context.container_id == "a" * 64


@pytest.mark.parametrize(
    ("major", "minor", "name"),
    [
        (136, 0, "pts/0"),
        (137, 5, "pts/261"),
        (4, 1, "tty1"),
        (4, 64, "ttyS0"),
        (5, 1, "5:1"),
        (204, 64, "204:64"),
        (0, 0, None),
    ],
)
def test_terminals(major: int, minor: int, name: str | None) -> None:
    assert tty_name(major, minor) == name


# -------------------------------------------------------------------------- sharing, and its bounds


def test_equal_facts_are_one_object() -> None:
    decoder = Decoder()
    record = execute(argv=b"x\0", env=b"A=1\0")
    first, second = decoded(record, decoder), decoded(record, decoder)
    child = decoded(fork(), decoder)
    assert isinstance(first, Exec)
    assert isinstance(second, Exec)
    assert isinstance(child, Fork)
    assert isinstance(first.facts, State)
    assert isinstance(second.facts, State)
    assert first.facts.image.executable is second.facts.image.executable
    assert first.facts.context is second.facts.context is child.context
    assert first.facts.cwd is second.facts.cwd
    assert first.facts.image.env is second.facts.image.env
    assert first.task is second.task is child.task


def test_the_tables_are_bounded() -> None:
    decoder = Decoder(limit=16)
    for number in range(1, 500):
        raw = b"%d\0" % number
        decoded(execute(executable=raw, argv=raw, env=b"A=" + raw), decoder)
        decoded(fork(who=(number, number), comm=b"%d" % number), decoder)
        decoded(cgroup(number, raw), decoder)
        tables = (value for value in vars(decoder).values() if isinstance(value, dict))
        assert all(len(table) <= 16 for table in tables if table is not decoder.decoders)
    assert decoder.malformed == 0


# ---------------------------------------------------------------------------------- bad records


@pytest.mark.parametrize("record", [fork(), execute(), exit_(0), cgroup(1, b"a\0")])
@pytest.mark.parametrize("change", [-8, -1, 1, 8])
def test_a_record_of_the_wrong_length(record: bytes, change: int) -> None:
    decoder = Decoder()
    wrong = record[:change] if change < 0 else record + bytes(change)
    assert decoded(wrong, decoder) is None
    assert decoder.malformed == 1


def test_a_rename_states_the_name_alone() -> None:
    event = decoded(rename(b"new"))
    assert event == Change(5000, Task(77, 1000), {"comm": "new"})
    paced = decoded(rename(b"new", wire.PACED, who=THREAD))
    assert paced == Change(
        5000, Task(41, 600), {"comm": "new"}, leader=Task(77, 1000), untold_until=1 << 30
    )


def test_a_change_states_everything_but_the_image() -> None:
    decoder = Decoder()
    event = decoded(change(cwd=b"b\0a\0", uid=1000), decoder)
    assert isinstance(event, Change)
    assert event.given.keys() == {"comm", "context", "cwd", "root"}
    assert (event.given["comm"], event.given["cwd"], event.given["root"]) == ("me", "/a/b", "/")
    assert event.given["context"].uid == 1000
    assert (event.subreaper, event.parent) == (None, Task(40, 500))
    dying = decoded(change(cwd=b"", known=0), decoder)
    assert isinstance(dying, Change)
    assert dying.given.keys() == {"comm", "context"}


def test_the_subreaper_flag_of_those_who_never_had_it_is_not_spoken_of() -> None:
    decoder = Decoder(limit=16)
    flags = [0, wire.SUBREAPER, 0]
    told = [decoded(change(flags=flag), decoder) for flag in flags]
    assert [event.subreaper for event in told if isinstance(event, Change)] == [None, True, False]


@pytest.mark.parametrize(("kind", "version"), [(0, 2), (8, 2), (77, 2), (1, 0), (1, 1), (2, 999)])
def test_a_kind_or_version_that_is_not_known(kind: int, version: int) -> None:
    decoder = Decoder()
    record = wire.HEADER.pack(kind, version, 0, 0) + fork()[wire.HEADER.size :]
    assert decoded(record, decoder) is None
    assert decoder.malformed == 1
    assert decoder.decoders.get(first_word(kind, version)) is None


def test_a_task_without_a_number() -> None:
    for record in (fork(who=(0, 0)), head(wire.EXIT) + bytes(wire.EXIT_RECORD.size - 16)):
        decoder = Decoder()
        assert decoded(record, decoder) is None
        assert decoder.malformed == 1


@given(st.binary(max_size=700), st.sampled_from(sorted(wire.KIND_NAMES)))
def test_no_bytes_make_a_decoder_raise(body: bytes, kind: int) -> None:
    decoder = Decoder()
    decoded(head(kind) + body, decoder)
    decoded(body, decoder)
    decoder.pictures(head(wire.SNAPSHOT) + body)
    decoder.pictures(body)


def test_no_damage_to_a_good_record_makes_a_decoder_raise() -> None:
    chance = random.Random(5)
    good = (
        fork(),
        exit_(9),
        cgroup(4, b"a\0b\0"),
        execute(interpreter=b"i\0", cwd=b"c\0", script=b"s\0", env=b"A=\xff\0", flags=0xFFFF),
        execute(kind=wire.SNAPSHOT, cgroup=b"g\0"),
        rename(b"n"),
        change(root=b"r\0"),
    )
    decoder = Decoder(limit=64)
    for record, _ in itertools.product(good, range(3000)):
        damaged = bytearray(record)
        for _ in range(chance.randint(1, 6)):
            damaged[chance.randrange(4, len(damaged))] = chance.randrange(256)
        event = decoded(bytes(damaged), decoder)
        assert event is not None or decoder.malformed or record == good[2]


# ----------------------------------------------------------------------------- layout against BTF

_BTF_HEADER: Final = Struct("=HBBIIIII")
_TYPE: Final = Struct("=III")
_MEMBER: Final = Struct("=III")
_INT, _POINTER, _ARRAY, _STRUCT, _UNION, _ENUM = range(1, 7)
_EXTRA: Final = {_INT: 4, _ARRAY: 12, 13: 8, 14: 4, 15: 12, 17: 4, 19: 12}
_PER_MEMBER: Final = {_STRUCT: 12, _UNION: 12, _ENUM: 8, 13: 8, 15: 12, 19: 12}


class Btf:
    """Names, sizes and member offsets in a compiled object, read by hand."""

    def __init__(self, path: Path) -> None:
        data = _section(path.read_bytes(), b".BTF")
        _, _, _, size, types_at, types_size, names_at, names_size = _BTF_HEADER.unpack_from(data)
        self._names = data[size + names_at : size + names_at + names_size]
        types = data[size + types_at : size + types_at + types_size]
        self.structs: dict[str, tuple[int, dict[str, int]]] = {}
        self.enumerators: dict[str, int] = {}
        at = 0
        while at < len(types):
            name, info, total = _TYPE.unpack_from(types, at)
            at += _TYPE.size
            kind, count = info >> 24 & 31, info & 0xFFFF
            if kind in (_STRUCT, _UNION):
                members = [_MEMBER.unpack_from(types, at + 12 * i) for i in range(count)]
                offsets = {self._name(m[0]): (m[2] & 0xFFFFFF) // 8 for m in members}
                self.structs[self._name(name)] = total, offsets
            elif kind == _ENUM:
                for i in range(count):
                    label, value = Struct("=Ii").unpack_from(types, at + 8 * i)
                    self.enumerators[self._name(label)] = value
            if kind in _PER_MEMBER and kind != 14:
                at += _PER_MEMBER[kind] * count
            else:
                at += _EXTRA.get(kind, 0)

    def _name(self, at: int) -> str:
        return self._names[at : self._names.index(b"\0", at)].decode()


def _section(elf: bytes, wanted: bytes) -> bytes:
    """A section of a 64-bit ELF file."""
    table, entry, count, names = (
        Struct("=Q").unpack_from(elf, 0x28)[0],
        *Struct("=HHH").unpack_from(elf, 0x3A),
    )
    headers = [Struct("=IIQQQQ").unpack_from(elf, table + entry * i) for i in range(count)]
    names_at = headers[names][4]
    for name, _, _, _, offset, size in headers:
        start = names_at + name
        if elf[start : elf.index(b"\0", start)] == wanted:
            return elf[offset : offset + size]
    raise AssertionError(f"no section {wanted!r}")


@pytest.fixture(scope="module")
def btf() -> Btf:
    assert OBJECT.exists(), f"{OBJECT} is missing: run make -C bpf"
    return Btf(OBJECT)


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("pt_header", wire.HEADER),
        ("pt_task", wire.TASK),
        ("pt_context", wire.CONTEXT),
        ("pt_file", wire.FILE),
        ("pt_directories", wire.DIRECTORIES),
        ("pt_places", wire.PLACES),
        ("pt_fork", wire.FORK_RECORD),
        ("pt_exec", wire.EXEC_RECORD),
        ("pt_exit", wire.EXIT_RECORD),
        ("pt_rename", wire.RENAME_RECORD),
        ("pt_change", wire.CHANGE_RECORD),
        ("pt_cgroup", wire.CGROUP_RECORD),
    ],
)
def test_every_field_is_where_the_object_has_it(btf: Btf, name: str, layout: Struct) -> None:
    size, offsets = btf.structs[name]
    assert layout.size == size
    starts = {Struct("=" + prefix).size for prefix in _prefixes(layout.format)}
    inner = {0}
    for member, at in offsets.items():
        assert at in starts, f"{name}.{member} at {at}"
        inner.add(at)
    if name in ("pt_header", "pt_task", "pt_context", "pt_file", "pt_directories", "pt_places"):
        assert starts - {size} == inner


def _prefixes(format_: str) -> list[str]:
    """The format cut after every field: "=2Is" gives "", "I", "II", "IIs"."""
    fields: list[str] = []
    count = ""
    for letter in format_.lstrip("="):
        if letter.isdigit():
            count += letter
            continue
        fields += [count + letter] if letter == "s" else [letter] * int(count or 1)
        count = ""
    return ["".join(fields[:i]) for i in range(len(fields) + 1)]


def test_parts_that_are_read_on_their_own(btf: Btf) -> None:
    _, context_at = btf.structs["pt_context"]
    assert context_at["cap_effective"] == wire.CAPABILITIES_AT.start
    assert context_at["session_id"] == wire.CAPABILITIES_AT.stop
    assert context_at["cgroup_id"] == wire.CGROUP_ID_AT
    assert context_at["ns_pid"] == wire.NAMESPACES_AT.start
    assert wire.NAMESPACES_AT.stop == wire.CONTEXT.size
    assert btf.structs["pt_file"][1]["path_length"] == wire.PATH_LENGTH_AT


def test_the_order_of_what_is_unpacked_by_position(btf: Btf) -> None:
    namespaces = [name for name in btf.structs["pt_context"][1] if name.startswith("ns_")]
    assert [name.removeprefix("ns_") for name in namespaces] == list(Namespaces.__struct_fields__)
    sets = [name for name in btf.structs["pt_context"][1] if name.startswith("cap_")]
    assert [name.removeprefix("cap_") for name in sets] == list(Capabilities.__struct_fields__)


def test_kinds_and_flags(btf: Btf) -> None:
    for kind, name in wire.KIND_NAMES.items():
        assert btf.enumerators[f"PT_{name.upper()}"] == kind
    for bit, name in enumerate(wire.CUT_NAMES):
        assert btf.enumerators[f"PT_CUT_{name.upper()}"] == 1 << bit
    checked = 0
    for name, value in vars(wire).items():
        if name.startswith(("FILE_", "DIRECTORIES_", "HAS_", "CUT_")) and type(value) is int:
            if name != "CUT_ANY":
                assert btf.enumerators[f"PT_{name}"] == value
                checked += 1
    assert checked == 13
    for name in ("GROUP_EXIT", "SUBREAPER", "KERNEL_THREAD", "PACED"):
        assert btf.enumerators[f"PT_{name}"] == vars(wire)[name]
    for name in ("CWD_CUT", "ROOT_CUT"):
        assert btf.enumerators[f"PT_DIRECTORIES_{name}"] == vars(wire)[name]
