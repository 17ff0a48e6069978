"""Uids by name: only where they are this machine's, remembered within bounds, never acting."""

from __future__ import annotations

import io
import json
import os
import pwd
from pathlib import Path
from typing import Any

import pytest

from proctree_ds import DataSource, ProcessTree
from proctree_ds.detection import Detection, SignatureIdentity
from proctree_ds.model import Namespaces, Snapshot, Task
from proctree_ds.sinks.jsonl import JsonLines
from proctree_ds.sinks.process_view import facts
from proctree_ds.sinks.table import Table
from proctree_ds.sinks.tree_view import chain, draw
from proctree_ds.users import AGE_SECONDS, USERS_LIMIT, UserNames

HERE, ELSEWHERE = 7, 8
NASTY = "x\x1b[2J\n\u202eroot\udcff"
SHOWN = r"x\x1b[2J\n\u202eroot\xff"


class Passwd:
    """Users by uid, and which uids were asked for."""

    def __init__(self, **users: int) -> None:
        self.users = {uid: name for name, uid in users.items()}
        self.asked: list[int] = []
        self.now = 0
        self.captured: str | None = "this boot"

    def __call__(self, uid: int) -> str | None:
        self.asked.append(uid)
        return self.users.get(uid)

    def names(self) -> UserNames:
        return UserNames(
            lambda: self.captured,
            boot_id="this boot",
            user_namespace=HERE,
            lookup=self,
            clock=lambda: self.now,
        )


def nasty() -> UserNames:
    passwd = Passwd(root=0)
    passwd.users[33] = NASTY
    return passwd.names()


def test_names_of_this_user_namespace_only() -> None:
    names = Passwd(root=0, ana=1000).names()
    assert [names.name(uid, HERE) for uid in (0, 1000, 1001, None)] == ["root", "ana", None, None]
    assert names.name(0, ELSEWHERE) is None
    assert names.name(0, None) is None


def test_names_of_this_boot_only() -> None:
    passwd = Passwd(root=0)
    names = passwd.names()
    for passwd.captured, known in (("this boot", True), ("another", False), (None, False)):
        assert names.are_known is known
        assert names.name(0, HERE) == ("root" if known else None)


def test_a_name_is_looked_up_once_until_it_is_old() -> None:
    passwd = Passwd(ana=1000)
    names = passwd.names()
    for _ in range(3):
        assert (names.name(1000, HERE), names.name(4242, HERE)) == ("ana", None)
    assert passwd.asked == [1000, 4242]
    passwd.users[1000] = "eva"
    passwd.now = AGE_SECONDS * 1_000_000_000 - 1
    assert names.name(1000, HERE) == "ana"
    passwd.now += 1
    assert names.name(1000, HERE) == "eva"


def test_few_names_are_remembered() -> None:
    passwd = Passwd()
    names = passwd.names()
    for uid in range(USERS_LIMIT):
        names.name(uid, HERE)
    names.name(0, HERE)
    assert len(passwd.asked) == USERS_LIMIT
    for uid in range(USERS_LIMIT, 2 * USERS_LIMIT):
        names.name(uid, HERE)
    names.name(0, HERE)
    assert len(passwd.asked) == 2 * USERS_LIMIT + 1


@pytest.mark.parametrize("uid", [0, 2**32 - 2, 2**32 - 1, 2**40])
def test_names_of_this_machine(uid: int) -> None:
    expected = pwd.getpwuid(0).pw_name if uid == 0 else None
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    names = UserNames(lambda: boot_id)
    assert names.name(uid, os.stat("/proc/self/ns/user").st_ino) == expected


# -------------------------------------------------------------------------------------- where shown


def namespaces(user: int) -> Namespaces:
    return Namespaces(**(dict.fromkeys(Namespaces.__struct_fields__, 1) | {"user": user}))


def asked() -> DataSource:
    """Process 600 of the user 33 here, and its child 601, a root in a user namespace."""
    tree = ProcessTree()
    parent, child = Task(600, 100), Task(601, 200)
    tree.apply(Snapshot(300, parent, {"uid": 33, "euid": 0, "namespaces": namespaces(HERE)}))
    tree.apply(
        Snapshot(
            300, child, {"uid": 0, "euid": 0, "namespaces": namespaces(ELSEWHERE)}, parent=parent
        )
    )
    return DataSource(tree)


def detection() -> Detection:
    ds = asked()
    lineage = [info.to_dict() for info in ds.lineage(ds.pid(601, 400).entity_id, 400)]
    return Detection(
        time=400,
        signature=SignatureIdentity("PT-X", "1", "A name", "high", (), ()),
        event={"name": "exec"},
        process=lineage[0],
        lineage=lineage,
        data={},
    )


def test_everything_about_a_process_has_names_behind_the_numbers() -> None:
    ds = asked()
    lines = list(facts(ds.pid(600, 400), width=500, users=nasty()))
    told = {line.split("  ", 1)[0]: line.split(None, 1)[1] for line in lines}
    assert told["uid"] == f"33 ({SHOWN})"
    assert told["euid"] == "0 (root)"
    inside = list(facts(ds.pid(601, 400), width=500, users=nasty()))
    assert any(line.split() == ["uid", "0"] for line in inside)
    without = list(facts(ds.pid(600, 400), width=500))
    assert any(line.split() == ["uid", "33"] for line in without)


def test_a_lineage_has_a_column_of_users() -> None:
    ds = asked()
    lines = chain(ds.lineage(ds.pid(601, 400).entity_id, 400))
    parent, child = draw(lines, width=200, since=None, users=nasty())
    assert parent.split()[:3] == ["600", "alive", "root"]
    assert child.split()[:3] == ["601", "alive", "0"]
    parent, child = draw(lines, width=200, since=None)
    assert "root" not in parent


def test_a_finding_has_names_where_they_are_known() -> None:
    out = io.BytesIO()
    one = detection()
    JsonLines(out, nasty()).write(one)
    written: dict[str, Any] = json.loads(out.getvalue())
    assert "user" not in written["process"]
    assert [process.get("user") for process in written["lineage"]] == [None, NASTY]
    assert all("user" not in process for process in one.lineage)  # it belongs to others as well
    plain = io.BytesIO()
    JsonLines(plain).write(one)
    assert b'"user":"' not in plain.getvalue()


def test_the_table_of_a_finding_has_names_that_do_nothing() -> None:
    out = io.StringIO()
    Table(out, width=200, users=nasty()).write(detection())
    assert f"uid 33 ({SHOWN})" in out.getvalue()
    assert "\x1b" not in out.getvalue() and "\u202e" not in out.getvalue()
