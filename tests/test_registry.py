"""Signature files: what loads, what is refused, and that a failure is a value."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from proctree_ds import registry
from proctree_ds.errors import ConfigurationError
from proctree_ds.registry import LoadFailure, Registry, load_signatures

GOOD = """
from proctree_ds.signature import EventSelector, Finding, Signature, SignatureMetadata

class {name}(Signature):
    metadata = SignatureMetadata(
        id="{id}", version="1", name="n", description="d", severity="low"
    )
    selectors = (EventSelector(event="exec"),)

    def on_event(self, event):
        return Finding()
"""


HANGS = """
    def __init__(self):
        while True:
            pass
"""


def good(id: str = "T-1", name: str = "Good") -> str:
    return GOOD.format(id=id, name=name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    return tmp_path


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    path.chmod(0o644)
    return path


def loaded(folder: Path) -> Registry:
    return load_signatures([folder], builtin=False)


def only_failure(folder: Path) -> LoadFailure:
    loading = loaded(folder)
    assert len(loading.failures) == 1
    return loading.failures[0]


def test_every_signature_of_every_file_in_order_of_names(folder: Path) -> None:
    write(folder, "b.py", good("B", "One") + good("C", "Two"))
    write(folder, "a.py", good("A"))
    write(folder, "_ignored.py", "1 / 0")
    write(folder, "notes.txt", "1 / 0")
    loading = loaded(folder)
    assert [s.metadata.id for s in loading.signatures] == ["A", "B", "C"]
    assert loading.failures == []


def test_a_failure_keeps_the_last_line_of_its_traceback_and_the_rest_runs(folder: Path) -> None:
    bad = write(folder, "a.py", "x = 1\ny = x / 0\n")
    write(folder, "b.py", good())
    loading = loaded(folder)
    assert loading.failures == [LoadFailure(str(bad), "ZeroDivisionError: division by zero", 2)]
    assert str(loading.failures[0]) == f"{bad}:2: ZeroDivisionError: division by zero"
    assert len(loading.signatures) == 1


def test_a_syntax_error_names_its_line(folder: Path) -> None:
    write(folder, "a.py", "ok = 1\n\ndef broken(:\n    pass\n")
    failure = only_failure(folder)
    assert failure.line == 3
    assert failure.reason.startswith("SyntaxError")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import sys\nsys.exit(3)\n", "SystemExit: 3"),
        ("raise BaseException('odd')\n", "BaseException: odd"),
        ("x = 1\n", "no subclass of Signature"),
        (good().replace('severity="low"', 'severity="dire"'), "severity must be one of"),
        (good().replace('id="T-1"', 'id=""'), "metadata.id must be a text"),
        (good().replace('event="exec"', 'event="open"'), "event must be one of"),
        (good().replace("on_event", "on_events"), "add: def on_event"),
        ("from proctree_ds.signature import Signature\nclass A(Signature): pass", "no metadata"),
        (good().replace("selectors =", "chosen ="), "add: selectors ="),
        (good() + "    def __init__(self): raise OSError('no disk')\n", "no disk"),
        ("from sibling import x\n", "No module named 'sibling'"),
    ],
)
def test_what_cannot_be_used_says_why(folder: Path, text: str, says: str) -> None:
    write(folder, "a.py", text)
    write(folder, "_sibling.py", "x = 1")
    assert says in only_failure(folder).reason


def test_a_second_signature_with_the_same_id_names_the_file_of_the_first(folder: Path) -> None:
    first = write(folder, "a.py", good("SAME"))
    write(folder, "b.py", good("SAME"))
    loading = loaded(folder)
    assert len(loading.signatures) == 1
    assert str(first) in loading.failures[0].reason
    assert "'SAME' is taken" in loading.failures[0].reason


def test_bases_are_left_out_by_their_name(folder: Path) -> None:
    text = good("A", "_Base") + "class Real(_Base):\n    pass\n"
    write(folder, "a.py", text)
    loading = loaded(folder)
    assert [type(s).__name__ for s in loading.signatures] == ["Real"]


def test_two_files_of_one_name_do_not_meet_and_the_import_path_stays(folder: Path) -> None:
    path_before = list(sys.path)
    for name, id in (("one", "A"), ("two", "B")):
        (folder / name).mkdir(mode=0o755)
        write(folder / name, "same.py", good(id))
    loading = load_signatures([folder / "one", folder / "two"], builtin=False)
    modules = {type(s).__module__ for s in loading.signatures}
    assert len(modules) == 2
    assert sys.path == path_before
    assert not list(folder.rglob("__pycache__"))


@pytest.mark.parametrize("kind", ["missing", "a file"])
def test_a_directory_that_is_none_is_an_error_of_configuration(folder: Path, kind: str) -> None:
    path = folder / "x" if kind == "missing" else write(folder, "x", "")
    with pytest.raises(ConfigurationError, match="signatures cannot be read from"):
        loaded(path)


def test_a_fifo_does_not_stop_the_loading(folder: Path) -> None:
    os.mkfifo(folder / "a.py", mode=0o644)
    assert only_failure(folder).reason == "not a regular file"


def test_a_dangling_link_is_a_failure(folder: Path) -> None:
    (folder / "a.py").symlink_to(folder / "gone.py")
    assert "No such file" in only_failure(folder).reason


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757, 0o1777])
def test_a_directory_that_others_can_write_is_refused(folder: Path, mode: int) -> None:
    write(folder, "a.py", good())
    folder.chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod go-w"):
        loaded(folder)


def test_a_directory_of_another_user_is_refused(folder: Path) -> None:
    os.chown(folder, 12345, -1)
    with pytest.raises(ConfigurationError, match="chown root"):
        loaded(folder)


def test_a_directory_below_one_that_others_can_write_is_refused(folder: Path) -> None:
    inner = folder / "open" / "inner"
    inner.mkdir(parents=True, mode=0o755)
    write(inner, "a.py", good())
    inner.parent.chmod(0o777)
    with pytest.raises(ConfigurationError, match="others can write"):
        loaded(inner)
    inner.parent.chmod(0o1777)
    assert len(loaded(inner).signatures) == 1


@pytest.mark.parametrize("mode", [0o666, 0o664, 0o646])
def test_a_file_that_others_can_write_is_refused_and_the_rest_runs(folder: Path, mode: int) -> None:
    write(folder, "a.py", good("A")).chmod(mode)
    write(folder, "b.py", good("B"))
    loading = loaded(folder)
    assert "chmod go-w" in loading.failures[0].reason
    assert [s.metadata.id for s in loading.signatures] == ["B"]


def test_a_link_into_a_directory_that_others_can_write_is_refused(folder: Path) -> None:
    outside = folder / "outside"
    inside = folder / "inside"
    outside.mkdir()
    inside.mkdir(mode=0o755)
    target = write(outside, "real.py", good())
    outside.chmod(0o777)
    (inside / "a.py").symlink_to(target)
    assert "others can write" in only_failure(inside).reason


def test_without_root_the_reader_is_trusted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, "a.py", good())
    folder.chmod(0o777)
    monkeypatch.setattr(registry, "_has_rights", lambda: False)
    assert len(loaded(folder).signatures) == 1


@pytest.mark.parametrize("text", ["while True: pass\n", good() + HANGS])
def test_a_file_that_does_not_come_to_an_end_is_interrupted(
    folder: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "LOAD_SECONDS", 0.05)
    write(folder, "a.py", text)
    write(folder, "b.py", good("B"))
    loading = loaded(folder)
    assert loading.failures[0].reason == "it was not done within 0.05 s"
    assert loading.failures[0].line is not None
    assert [s.metadata.id for s in loading.signatures] == ["B"]


def test_the_built_in_ones_load_whole() -> None:
    loading = load_signatures()
    assert loading.failures == []
    assert len(loading.signatures) >= 8


# ------------------------------------------------------------------------------ reading again


def ids(registry: Registry) -> list[str]:
    return [s.metadata.id for s in registry.signatures]


def test_what_has_not_changed_is_the_same_object_again(folder: Path) -> None:
    write(folder, "a.py", good("A"))
    changed = write(folder, "b.py", good("B"))
    write(folder, "c.py", good("C"))
    first = load_signatures([folder])
    changed.write_text(good("B") + "# changed")
    write(folder, "d.py", good("D"))
    second = first.reload(first.signatures)
    assert second.failures == []
    assert ids(second) == [*ids(first), "D"]
    same = {s.metadata.id for s in second.signatures if any(s is old for old in first.signatures)}
    assert same == set(ids(first)) - {"B"}
    third = second.reload(second.signatures)
    assert third.signatures == second.signatures


def test_what_does_not_run_is_made_anew_though_it_has_not_changed(folder: Path) -> None:
    write(folder, "a.py", good("A"))
    first = load_signatures([folder])
    second = first.reload(s for s in first.signatures if s.metadata.id.startswith("PT-R"))
    assert ids(second) == ids(first)
    for old, new in zip(first.signatures, second.signatures, strict=True):
        assert (old is new) == old.metadata.id.startswith("PT-R")


@pytest.mark.parametrize("text", ["no Python", "1 / 0", "", GOOD.format(id="", name="Bad")])
def test_a_file_that_does_not_load_any_more_keeps_what_it_had(folder: Path, text: str) -> None:
    path = write(folder, "a.py", good("A"))
    write(folder, "b.py", good("B"))
    first = loaded(folder)
    path.write_text(text)
    second = first.reload(first.signatures)
    assert [failure.path for failure in second.failures] == [str(path)]
    assert second.signatures == first.signatures
    third = second.reload(second.signatures)  # it is tried again, and told again
    assert [failure.path for failure in third.failures] == [str(path)]
    assert third.signatures == first.signatures
    path.write_text(good("A"))
    mended = third.reload(third.signatures)
    assert (mended.failures, ids(mended)) == ([], ["A", "B"])
    assert mended.signatures[0] is not first.signatures[0]


def test_half_of_a_file_that_fails_keeps_that_half(folder: Path) -> None:
    path = write(folder, "a.py", good("A", "One") + good("B", "Two"))
    first = loaded(folder)
    path.write_text(good("A", "One") + good("B", "Two").replace("selectors", "nothing"))
    second = first.reload(first.signatures)
    assert len(second.failures) == 1
    assert ids(second) == ["A", "B"]
    assert second.signatures[0] is not first.signatures[0]
    assert second.signatures[1] is first.signatures[1]


def test_what_is_gone_is_gone_and_its_module_with_it(folder: Path) -> None:
    path = write(folder, "a.py", good("A"))
    write(folder, "b.py", good("B"))
    first = loaded(folder)
    name = type(first.signatures[0]).__module__
    assert name in sys.modules
    path.unlink()
    second = first.reload(first.signatures)
    assert (ids(second), second.failures) == (["B"], [])
    assert name not in sys.modules


def test_a_directory_that_is_gone_keeps_what_it_had(folder: Path) -> None:
    inside = folder / "signatures"
    inside.mkdir(mode=0o755)
    write(inside, "a.py", good("A"))
    first = loaded(inside)
    inside.rename(folder / "elsewhere")
    second = first.reload(first.signatures)
    assert "cannot be read" in second.failures[0].reason
    assert second.signatures == first.signatures
    (folder / "elsewhere").rename(inside)
    third = second.reload(second.signatures)
    assert (third.failures, ids(third)) == ([], ["A"])


def test_an_id_that_another_file_takes_is_said(folder: Path) -> None:
    write(folder, "b.py", good("B"))
    first = loaded(folder)
    write(folder, "a.py", good("B"))
    second = first.reload(first.signatures)
    assert "is taken" in second.failures[0].reason
    assert ids(second) == ["B"]
