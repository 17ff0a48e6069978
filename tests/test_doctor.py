"""`proctree doctor`: what is concluded from what a machine shows, without asking this one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from commands import run

from proctree_ds.diagnosis import Check, Diagnosis, Places, find_pins, remove_pins
from proctree_ds.diagnosis.bcc import bcc, unrelated_bcc
from proctree_ds.diagnosis.loading import compiled_object, hooks, libbpf, ring
from proctree_ds.diagnosis.machine import (
    architecture,
    boot_clock,
    bpf_file_system,
    cgroups,
    kernel,
    kernel_types,
    lockdown,
    mounts,
    pid_namespace,
    tracing,
)
from proctree_ds.diagnosis.rights import capabilities, system_call_filter
from proctree_ds.errors import ConfigurationError

ROOT_RIGHTS, NO_RIGHTS, ONLY_ADMIN, ONLY_BPF = "1ffffffffff", "0", "200000", "c000000000"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc that only has what a test puts there."""
    (tmp_path / "proc/self/ns").mkdir(parents=True)
    return tmp_path / "proc"


def test_what_is_not_well_says_what_it_costs_and_what_to_do(proc: Path, tmp_path: Path) -> None:
    nowhere = Places(proc, *(tmp_path / name for name in "abcde"))
    for check in (
        kernel("5.10.0-28-amd64"),
        kernel("unheard of"),
        architecture("riscv64"),
        kernel_types(nowhere),
        tracing(nowhere),
        bpf_file_system(nowhere),
        cgroups(nowhere),
        pid_namespace(nowhere),
        compiled_object(tmp_path / "none.o"),
        bcc(nowhere),
        *capabilities(nowhere, "5.10.0"),
    ):
        assert check.verdict != "ok", check
        assert check.found and check.cost and check.remedy, check


@pytest.mark.parametrize(
    ("release", "verdict"),
    [
        ("5.13.0", "ok"),
        ("5.12.19", "missing"),
        ("6.1.0-rc1+", "ok"),
        ("10.0", "ok"),
        ("", "missing"),
    ],
)
def test_the_oldest_kernel(release: str, verdict: str) -> None:
    assert kernel(release).verdict == verdict


@pytest.mark.parametrize(
    ("content", "verdict"), [(b"\x9f\xeb\x01\0", "ok"), (b"\x7fELF", "missing"), (b"", "missing")]
)
def test_types_of_the_kernel(tmp_path: Path, content: bytes, verdict: str) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(content)
    check = kernel_types(Places(kernel_types=path))
    assert (check.verdict, check.is_required) == (verdict, True)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("[none] integrity confidentiality\n", "ok"),
        ("none [integrity] confidentiality\n", "ok"),
        ("none integrity [confidentiality]\n", "missing"),
        (None, "ok"),
    ],
)
def test_lockdown(tmp_path: Path, text: str | None, verdict: str) -> None:
    path = tmp_path / "lockdown"
    if text is not None:
        path.write_text(text)
    assert lockdown(Places(lockdown=path)).verdict == verdict


# ------------------------------------------------------------------------------------- rights


def rights(proc: Path, effective: str, release: str, *, inner: bool = False) -> dict[str, Check]:
    (proc / "self/status").write_text(f"Name:\tx\nCapPrm:\t0\nCapEff:\t{effective}\nSeccomp:\t0\n")
    if inner:
        (proc / "self/ns/user").write_text("")  # its inode is not that of the initial namespace
    return {check.name: check for check in capabilities(Places(proc), release)}


@pytest.mark.parametrize(
    ("effective", "missing"),
    [
        (ROOT_RIGHTS, set()),
        (ONLY_BPF, {"CAP_SYS_PTRACE", "CAP_NET_ADMIN"}),
        (ONLY_ADMIN, {"CAP_SYS_PTRACE", "CAP_NET_ADMIN"}),
        (NO_RIGHTS, {"CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_NET_ADMIN"}),
    ],
)
def test_rights_by_the_effective_set(proc: Path, effective: str, missing: set[str]) -> None:
    found = rights(proc, effective, "6.1.0")
    assert {name for name, check in found.items() if check.verdict != "ok"} == missing
    assert {n for n, check in found.items() if check.is_required} == {"CAP_BPF", "CAP_PERFMON"}


def test_rights_within_a_user_namespace_are_none(proc: Path) -> None:
    for check in rights(proc, ROOT_RIGHTS, "5.10.0", inner=True).values():
        assert check.verdict == "missing"
        assert "user namespace" in check.found


def test_memory_of_rings_is_limited_on_old_kernels_only(proc: Path) -> None:
    check = rights(proc, ONLY_BPF, "5.10.0")["CAP_SYS_RESOURCE"]
    assert (check.verdict, "RLIMIT_MEMLOCK is" in check.found) == ("missing", True)
    assert rights(proc, ONLY_BPF, "5.11.0")["CAP_SYS_RESOURCE"].verdict == "ok"


@pytest.mark.parametrize(("mode", "verdict"), [("0", "ok"), ("2", "degraded")])
def test_a_filter_of_system_calls(proc: Path, mode: str, verdict: str) -> None:
    (proc / "self/status").write_text(f"CapEff:\t0\nSeccomp:\t{mode}\nSeccomp_filters:\t3\n")
    assert system_call_filter(Places(proc)).verdict == verdict


# ------------------------------------------------------------------------------------- mounts


V1 = "33 25 0:29 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n"
V2 = "34 25 0:30 / /sys/fs/cgroup/uni\\040fied rw - cgroup2 cgroup2 rw\n"
BPF = "35 25 0:31 / {place} rw,nosuid shared:3 - bpf bpf rw,mode=700\n"


@pytest.mark.parametrize(
    ("mounted", "found"),
    [(V1, "v1"), (V2, "v2"), (V2 + V1, "v1 and v2"), (BPF, None), ("", None), ("broken\n", None)],
)
def test_kinds_of_cgroups(proc: Path, mounted: str, found: str | None) -> None:
    (proc / "self/mountinfo").write_text(mounted)
    check = cgroups(Places(proc))
    assert (check.verdict, check.found if found else None) == ("ok" if found else "missing", found)


def test_a_mount_is_where_it_says(proc: Path) -> None:
    (proc / "self/mountinfo").write_text(V2)
    (mount,) = mounts(proc)
    assert (mount.kind, mount.place, mount.device) == (
        "cgroup2",
        "/sys/fs/cgroup/uni fied",
        "0:30",
    )


def test_bpffs_has_to_be_mounted_at_its_place(proc: Path, tmp_path: Path) -> None:
    place = tmp_path / "bpf"
    place.mkdir()
    places = Places(proc, bpf_mount=place)
    (proc / "self/mountinfo").write_text(BPF.format(place="/elsewhere"))
    assert bpf_file_system(places).verdict == "missing"
    (proc / "self/mountinfo").write_text(BPF.format(place=place))
    assert bpf_file_system(places).verdict == "ok"


@pytest.mark.parametrize(
    ("offsets", "verdict"),
    [
        ("monotonic           0         0\nboottime            0         0\n", "ok"),
        ("monotonic           0         0\nboottime        86400         0\n", "degraded"),
        ("monotonic           0         0\nboottime           -1         5\n", "degraded"),
        (None, "ok"),
    ],
)
def test_a_time_namespace_moves_the_boot_clock(
    proc: Path, offsets: str | None, verdict: str
) -> None:
    if offsets is not None:
        (proc / "self/timens_offsets").write_text(offsets)
    assert boot_clock(Places(proc)).verdict == verdict


# ------------------------------------------------------------------------------------- libbpf


def test_without_libbpf_everything_that_needs_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proctree_ds.sources.libbpf.SONAME", "libbpf-that-is-not-there.so.1")
    monkeypatch.setattr("proctree_ds.sources.libbpf._library", None)
    assert [(check.verdict, check.is_required) for check in (libbpf(), ring())] == [
        ("missing", False),  # BCC may stand in
        ("degraded", False),
    ]
    assert "apt-get install libbpf1" in (libbpf().remedy or "")
    assert hooks(Places()) == []


# ---------------------------------------------------------------------------------------- BCC


def test_bcc_of_the_system_is_tried(tmp_path: Path) -> None:
    package = tmp_path / "bcc"
    package.mkdir()
    places = Places(system_packages=tmp_path)
    (package / "__init__.py").write_text("__version__ = '0.99'\n")
    assert bcc(places).verdict == "missing"  # a package of that name, and not iovisor's
    (package / "libbcc.py").write_text("")
    check = bcc(places)
    assert (check.verdict, "0.99" in check.found) == ("ok", True)
    (package / "__init__.py").write_text("raise OSError('libbcc.so.0: \\x1b[31m')\n")
    check = bcc(places)
    assert (check.verdict, "libbcc.so.0" in check.found) == ("missing", True)


def test_another_package_called_bcc_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "bcc"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('never imported')\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    check = unrelated_bcc()
    assert check is not None
    assert (check.verdict, str(package) in check.found) == ("degraded", True)
    assert "uninstall bcc" in (check.remedy or "")
    (package / "libbcc.py").write_text("")
    assert unrelated_bcc() is None


# --------------------------------------------------------------------------------- conclusions


def test_the_shortest_way_is_past_the_first_obstacle() -> None:
    well = Check("a", "ok", "there", is_required=True)
    extra = Check("b", "missing", "not there", "little", "do b")
    weak = Check("c", "degraded", "so so", "some", "do c", is_required=True)
    first = Check("d", "missing", "not there", "all", "do d", is_required=True)
    second = Check("e", "missing", "not there", "all", "do e", is_required=True)
    good = Diagnosis((well, extra, weak))
    assert (good.can_capture, good.shortest_way) == (True, None)
    bad = Diagnosis((well, extra, weak, first, second))
    assert (bad.can_capture, bad.shortest_way) == (False, "do d")


def test_only_pins_are_removed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    (tmp_path.parent / f"{tmp_path.name}-link").symlink_to(tmp_path)
    for place in (tmp_path, tmp_path.parent / f"{tmp_path.name}-link", precious):
        with pytest.raises(ConfigurationError):
            remove_pins(place)
        with pytest.raises(ConfigurationError):
            find_pins(place)
    assert precious.read_text() == "keep me"
    assert not find_pins(tmp_path / "none") and not remove_pins(tmp_path / "none")


def test_what_is_not_removed_is_told(tmp_path: Path) -> None:
    done = run("proctree", "doctor", "--unpin", "--pins", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "is not on bpffs" in done.stderr


@pytest.mark.parametrize("wrong", [["--output", "xml"], ["--pins"], ["live"]])
def test_wrong_usage(wrong: list[str]) -> None:
    assert run("proctree", "doctor", *wrong).returncode == 2
