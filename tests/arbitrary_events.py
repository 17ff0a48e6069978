"""Any event that the model can hold, in the one spelling that reading a log gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from proctree_ds.model import (
    CONTEXT_FIELDS,
    IMAGE_FIELDS,
    Capabilities,
    Change,
    Context,
    Event,
    Exec,
    Exit,
    FileInfo,
    Fork,
    Given,
    Header,
    Image,
    Loss,
    Namespaces,
    Picture,
    Snapshot,
    State,
    Task,
)


def _or_none(strategy: SearchStrategy[Any]) -> SearchStrategy[Any]:
    return st.none() | strategy


times = st.integers(0, 2**63 - 1)
pids = st.integers(0, 2**31 - 1)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
epoch_times = st.integers(-(2**63), 2**63 - 1)

texts: SearchStrategy[str] = (
    st.text(max_size=20)
    | st.binary(max_size=20).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
    | st.sampled_from(["", ") R 1 (", '"\\', "a\nb\tc", "\x1b[31m", "\u2028", "\\udc80", "\x00"])
)

files = st.builds(
    FileInfo,
    path=_or_none(texts),
    path_truncated=st.booleans(),
    device=_or_none(u64),
    inode=_or_none(u64),
    mode=_or_none(u32),
    owner=_or_none(u32),
    size=_or_none(times),
    ctime=_or_none(epoch_times),
    mtime=_or_none(epoch_times),
    link_count=_or_none(u32),
    is_memfd=_or_none(st.booleans()),
    is_deleted=_or_none(st.booleans()),
    on_upper_layer=_or_none(st.booleans()),
)

_image_fields: dict[str, SearchStrategy[Any]] = {
    "executable": _or_none(files),
    "interpreter": _or_none(files),
    "script": _or_none(texts),
    "argv": _or_none(st.lists(texts, max_size=4).map(tuple)),
    "argv_truncated": st.booleans(),
    "env": _or_none(st.dictionaries(texts, texts, max_size=3)),
    "env_truncated": st.booleans(),
    "exec_time": _or_none(times),
}
_context_fields: dict[str, SearchStrategy[Any]] = {
    "uid": _or_none(u32),
    "euid": _or_none(u32),
    "suid": _or_none(u32),
    "gid": _or_none(u32),
    "egid": _or_none(u32),
    "sgid": _or_none(u32),
    "capabilities": _or_none(st.builds(Capabilities, u64, u64, u64, u64, u64)),
    "session_id": _or_none(pids),
    "process_group": _or_none(pids),
    "tty": _or_none(texts),
    "login_uid": _or_none(u32),
    "cgroup": _or_none(texts),
    "cgroup_id": _or_none(u64),
    "container_id": _or_none(texts),
    "namespaces": _or_none(
        st.builds(Namespaces, *[_or_none(u32) for _ in Namespaces.__struct_fields__])
    ),
}
assert _image_fields.keys() == IMAGE_FIELDS
assert _context_fields.keys() == CONTEXT_FIELDS

images = st.builds(Image, **_image_fields)
contexts = st.builds(Context, **_context_fields)
states = st.builds(State, _or_none(texts), images, _or_none(texts), _or_none(texts), contexts)


def _some(fields: dict[str, SearchStrategy[Any]]) -> SearchStrategy[Given]:
    """Some of the fields, never all of them: all of them are a whole."""
    return st.fixed_dictionaries({}, optional=fields).filter(lambda given: len(given) < len(fields))


def _with_container(given: Given) -> Given:
    # A cgroup without a container id is given one by reading; that has tests of its own.
    return given | {"container_id": None} if given.keys() & {"cgroup"} else given


_some_context = (
    _some(_context_fields)
    .map(_with_container)
    .filter(lambda given: len(given) < len(_context_fields))
)
_whole_context = contexts.map(lambda context: {"context": context})
_whole_image = images.map(lambda image: {"image": image})


def _union(*parts: SearchStrategy[Given]) -> SearchStrategy[Given]:
    merge: Callable[..., Given] = lambda *dicts: {k: v for d in dicts for k, v in d.items()}  # noqa: E731
    return st.builds(merge, *parts)


_places: dict[str, SearchStrategy[Any]] = {"cwd": _or_none(texts), "root": _or_none(texts)}
_comm_and_places: dict[str, SearchStrategy[Any]] = {"comm": _or_none(texts), **_places}
givens = _union(
    st.fixed_dictionaries({}, optional=_comm_and_places),
    _some(_image_fields) | _whole_image,
    _some_context | _whole_context,
)
_fork_givens = _union(
    st.fixed_dictionaries({}, optional=_places),
    _some(_image_fields) | _whole_image,
    _some_context,
).map(lambda given: given or None)
_exec_givens = _union(
    st.fixed_dictionaries({}, optional=_comm_and_places), _whole_image, _some_context
) | _union(_some(_comm_and_places), _whole_image, _whole_context)

tasks = st.builds(Task, pids, times)
references = _or_none(st.builds(Task, pids, _or_none(times)))
origins = st.sampled_from(["event", "iterator", "netlink", "procfs", "inferred"])

events: SearchStrategy[Event] = st.one_of(
    st.builds(
        Header,
        times,
        _or_none(texts),
        _or_none(texts),
        _or_none(times),
        st.lists(texts, max_size=3).map(tuple),
    ),
    st.builds(
        Fork,
        time=times,
        task=tasks,
        parent=references,
        leader=references,
        creator=references,
        ns_tid=_or_none(pids),
        ns_pid=_or_none(pids),
        comm=_or_none(texts),
        context=_or_none(contexts),
        given=_fork_givens,
        origin=origins,
    ).filter(lambda fork: fork.context is None or not (fork.given or {}).keys() & CONTEXT_FIELDS),
    st.builds(
        Exec,
        time=times,
        task=tasks,
        facts=states | _exec_givens,
        parent=references,
        old_tid=_or_none(pids),
        ns_tid=_or_none(pids),
        ns_pid=_or_none(pids),
    ),
    st.builds(Exec, time=times, task=tasks, facts=_exec_givens, parent=references, origin=origins),
    st.builds(
        Exit,
        time=times,
        task=tasks,
        leader=references,
        parent=references,
        exit_code=_or_none(st.integers(0, 2**31 - 1)),
        exit_signal=_or_none(st.integers(1, 127)),
        core_dumped=st.booleans(),
        group_exit=_or_none(st.booleans()),
        reaper=references,
        origin=origins,
    ),
    st.builds(
        Change,
        time=times,
        task=tasks,
        given=givens,
        leader=references,
        parent=references,
        subreaper=_or_none(st.booleans()),
        untold_until=_or_none(times),
        origin=origins,
    ),
    st.builds(
        Snapshot,
        time=times,
        task=tasks,
        given=givens,
        leader=references,
        parent=references,
        creator=references,
        ns_tid=_or_none(pids),
        ns_pid=_or_none(pids),
        subreaper=_or_none(st.booleans()),
        origin=origins,
    ),
    st.tuples(times, times).map(lambda drawn: Picture(max(drawn), min(drawn))),
    st.tuples(times, times, _or_none(times)).map(
        lambda drawn: Loss(max(drawn[:2]), min(drawn[:2]), drawn[2])
    ),
)
