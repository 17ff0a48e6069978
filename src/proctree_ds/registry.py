"""Finds signatures and loads them; what cannot be loaded is kept as a value, and the rest runs.

A directory's `*.py` files are read in order of their names, those whose name begins with `_` left
out. Each is a module of its own under a private name: nothing is added to the import path, so a
file can import what is installed, but not its neighbours. Every class in it that derives from
`Signature` is made, without arguments, except those whose name begins with `_` (bases that others
in the file derive from).

Run by root, or with any capability, a signature is code that has these rights. So a directory or a
file that anybody else than root could have written, or could swap for another, is refused: it must
belong to root, and so must everything on the way to it, with no write permission for group or
others. A sticky directory such as /tmp may stand on the way. What was checked is what is run: the
file is opened first, then looked at, read and compiled, and no byte code cache is used.

`reload` looks at the same places again. A file that has not changed by a byte keeps its signatures
with all that they remember; one that cannot be loaded any more keeps those that it had.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re
import stat
import sys
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from hashlib import sha256
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Final, TypeVar

import msgspec

from proctree_ds.errors import ConfigurationError, SignatureError
from proctree_ds.signature import EventSelector, Signature, SignatureMetadata
from proctree_ds.watchdog import SignatureTimeout, Watchdog

__all__ = ["LoadFailure", "Registry", "danger_of", "load_signatures"]

FILE_BYTES: Final = 4 * 1024 * 1024
"""A signature file larger than this is refused."""

LOAD_SECONDS: Final = 10.0
"""A file that has not run through by then is interrupted, as is the making of a signature."""

_BUILTIN_PACKAGE: Final = "proctree_ds.signatures"
_PRIVATE_NAME: Final = "_proctree_signature_file"
_numbers = count(1)

T = TypeVar("T")


class LoadFailure(msgspec.Struct, frozen=True):
    """A file, or a signature in it, that was left out, and why.

    `reason` is the last line of the traceback where there is one; `line` the line of the file
    that it came through.
    """

    path: str
    reason: str
    line: int | None = None

    def __str__(self) -> str:
        place = self.path if self.line is None else f"{self.path}:{self.line}"
        return f"{place}: {self.reason}"


class _File(msgspec.Struct):
    """A file that was read: a hash of what stood in it, and the signatures that it gave."""

    digest: bytes
    signatures: list[Signature]


class Registry:
    """The signatures that could be loaded (`signatures`), and what could not (`failures`)."""

    def __init__(self) -> None:
        self.signatures: list[Signature] = []
        self.failures: list[LoadFailure] = []
        self._files: dict[str, str] = {}
        self._loaded: dict[str, _File] = {}
        self._directories: dict[str, str] = {}
        """As they were given, and where they were then."""
        self._has_builtin = False
        self._before: dict[str, _File] = {}
        self._running: list[Signature] = []

    def reload(self, running: Iterable[Signature]) -> Registry:
        """A registry of what the same places hold now. This one stays as it is.

        A file that has not changed gives the same signatures again if all of them are among the
        `running`, else new ones. Where a file, or a whole directory, cannot be loaded, that is a
        failure, and those `running` that came from it are kept. Built-in ones are code that is
        loaded already, and so never changed.
        """
        fresh = Registry()
        fresh._before = self._loaded
        fresh._running = list(running)
        if self._has_builtin:
            fresh.load_builtin()
        for directory, place in self._directories.items():
            try:
                fresh.load_directory(directory)
            except (ConfigurationError, OSError) as error:  # it may go while it is looked at
                fresh._directories[directory] = place
                fresh.failures.append(LoadFailure(directory, str(error)))
                for path in self._loaded:
                    if os.path.dirname(path) == place:
                        fresh._fall_back(path)
        for name in self._modules() - fresh._modules():
            sys.modules.pop(name, None)
        fresh._before, fresh._running = {}, []
        return fresh

    def load_builtin(self) -> None:
        """Load the signatures that come with the library."""
        self._has_builtin = True
        package = importlib.import_module(_BUILTIN_PACKAGE)
        for found in pkgutil.iter_modules(package.__path__):
            if found.name.startswith("_"):
                continue
            path = str(Path(package.__path__[0]) / f"{found.name}.py")
            if self._take_unchanged(path, b""):
                continue
            if self._before and path not in self._before:
                continue  # of another version of the library
            try:
                module = importlib.import_module(f"{_BUILTIN_PACKAGE}.{found.name}")
            except Exception as error:  # noqa: BLE001 - kept as a value
                self.failures.append(_failure(path, error))
            else:
                self._take(module, path, b"")

    def load_directory(self, directory: str | os.PathLike[str]) -> None:
        """Load every signature file of `directory`.

        Raises `ConfigurationError` when there is no such directory, when it cannot be read, or
        when, run by root, somebody else could write to it.
        """
        try:
            root = Path(directory).resolve(strict=True)
            names = sorted(entry.name for entry in root.iterdir())
        except OSError as error:
            why = error.strerror or str(error)
            raise ConfigurationError(
                f"signatures cannot be read from {os.fspath(directory)}: {why}; "
                "name a directory that holds *.py files"
            ) from error
        danger = danger_of(root)
        if danger is not None:
            raise ConfigurationError(f"signatures are not loaded from {root}: {danger}")
        self._directories[os.path.abspath(directory)] = str(root)
        for name in names:
            if name.endswith(".py") and not name.startswith(("_", ".")):
                path = root / name
                failures = len(self.failures)
                self._load_file(path)
                if len(self.failures) > failures:
                    self._fall_back(str(path))

    def _take_unchanged(self, path: str, digest: bytes) -> bool:
        """Go on with the signatures of a file that is as it was, if all of them run."""
        before = self._before.get(path)
        if before is None or before.digest != digest or not before.signatures:
            return False
        if any(all(s is not r for r in self._running) for s in before.signatures):
            return False
        if any(s.metadata.id in self._files for s in before.signatures):
            return False  # another file has taken that id: let it be said
        for signature in before.signatures:
            self._keep(signature, path)
        self._loaded[path] = before
        return True

    def _fall_back(self, path: str) -> None:
        """Keep what ran of a file that is not loaded. It is read again the next time."""
        before = self._before.get(path)
        if before is None:
            return
        ids = {signature.metadata.id for signature in before.signatures}
        kept = [
            running
            for running in self._running
            if running.metadata.id in ids and running.metadata.id not in self._files
        ]
        for signature in kept:
            self._keep(signature, path)
        loaded = self._loaded.setdefault(path, _File(b"", []))
        loaded.digest = b""
        loaded.signatures.extend(kept)

    def _keep(self, signature: Signature, path: str) -> None:
        self._files[signature.metadata.id] = path
        self.signatures.append(signature)

    def _modules(self) -> set[str]:
        """The modules that signatures were made from, those of the library left out."""
        names = {type(s).__module__ for file in self._loaded.values() for s in file.signatures}
        return {name for name in names if name.startswith(_PRIVATE_NAME)}

    def _load_file(self, path: Path) -> None:
        try:
            source = _read(path)
        except (OSError, SignatureError) as error:
            self.failures.append(LoadFailure(str(path), str(error)))
            return
        digest = sha256(source).digest()
        if self._take_unchanged(str(path), digest):
            return
        name = f"{_PRIVATE_NAME}_{next(_numbers)}_{path.stem}"
        module = ModuleType(name)
        module.__file__ = str(path)
        sys.modules[name] = module
        try:
            code = compile(source, str(path), "exec", dont_inherit=True)
            _watched(partial(exec, code, module.__dict__))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a file may raise anything, SystemExit too
            del sys.modules[name]
            self.failures.append(_failure(str(path), error))
        else:
            self._take(module, str(path), digest)

    def _take(self, module: ModuleType, path: str, digest: bytes) -> None:
        """Make the signatures that `module` defines."""
        classes = [
            value
            for name, value in vars(module).items()
            if isinstance(value, type)
            and issubclass(value, Signature)
            and value.__module__ == module.__name__
            and not name.startswith("_")
            and not inspect.isabstract(value)
        ]
        if not classes:
            self.failures.append(
                LoadFailure(
                    path,
                    "there is no subclass of Signature in it; begin the file's name with _ "
                    "if it is not meant to hold any",
                )
            )
        loaded = self._loaded[path] = _File(digest, [])
        for made in dict.fromkeys(classes):
            try:
                signature = _watched(made)
                _check(signature)
                first = self._files.get(signature.metadata.id)
                if first is not None:
                    raise SignatureError(
                        f"{made.__name__}: the id {signature.metadata.id!r} is taken "
                        f"by a signature in {first}"
                    )
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - kept as a value
                self.failures.append(_failure(path, error))
            else:
                self._keep(signature, path)
                loaded.signatures.append(signature)


def _check(signature: Signature) -> None:
    """Raise `SignatureError`, saying what to add, unless `signature` is complete."""
    name = type(signature).__name__
    metadata = getattr(signature, "metadata", None)
    if not isinstance(metadata, SignatureMetadata):
        raise SignatureError(
            f"{name} has no metadata; add: metadata = SignatureMetadata(id=..., version=..., "
            "name=..., description=..., severity=...), or begin the name of the class with _ "
            "if it is only a base of others"
        )
    selectors = getattr(signature, "selectors", None)
    if not isinstance(selectors, tuple | list) or not all(
        isinstance(selector, EventSelector) for selector in selectors
    ):
        raise SignatureError(
            f'{name} has no selectors; add: selectors = (EventSelector(event="exec"),)'
        )
    is_heard = type(signature).on_signal is not Signature.on_signal
    if type(signature).on_event is Signature.on_event and not is_heard:
        raise SignatureError(f"{name} does nothing; add: def on_event(self, event)")
    if not selectors and not is_heard:
        raise SignatureError(
            f'{name} selects nothing; add: selectors = (EventSelector(event="exec"),)'
        )


def _watched(call: Callable[[], T]) -> T:
    """What `call` gives. Raises `SignatureTimeout` when that takes too long (main thread only)."""
    watchdog = Watchdog(LOAD_SECONDS, frozenset({_watched.__code__}), frozenset())
    watchdog.start()
    watchdog.running = watchdog.subject = call
    watchdog.enter()
    try:
        return call()
    finally:
        watchdog.running = None
        watchdog.stop()


def _failure(path: str, error: BaseException) -> LoadFailure:
    if type(error) is SignatureError:
        return LoadFailure(path, str(error))
    reason = traceback.format_exception_only(error)[-1].strip()
    if isinstance(error, SignatureTimeout):
        reason = f"it was not done within {LOAD_SECONDS:g} s"
    if isinstance(error, SyntaxError) and error.filename == path:
        return LoadFailure(path, reason, error.lineno)
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    return LoadFailure(path, reason, lines[-1] if lines else None)


def _read(path: Path) -> bytes:
    """The file's content, once it is sure that, run by root, nobody else could have written it."""
    # Without O_NONBLOCK, a named pipe would wait for a writer for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise SignatureError("not a regular file")
        if facts.st_size > FILE_BYTES:
            raise SignatureError(f"{facts.st_size} bytes; the limit is {FILE_BYTES}")
        target = path.resolve()
        danger = _writable_by_others(str(target), facts)
        if danger is None and target.parent != path.parent:
            danger = danger_of(target.parent)
        if danger is not None:
            raise SignatureError(f"not loaded: {danger}")
        return file.read(FILE_BYTES + 1)


def danger_of(directory: Path) -> str | None:
    """Who else than root could change what `directory` holds, and the remedy. None if nobody."""
    problem = _writable_by_others(str(directory), directory.stat())
    for parent in directory.parents if problem is None else ():
        problem = problem or _writable_by_others(str(parent), parent.stat(), sticky_will_do=True)
    return problem


def _writable_by_others(
    path: str, facts: os.stat_result, *, sticky_will_do: bool = False
) -> str | None:
    if not _has_rights():
        return None
    if facts.st_uid != 0:
        return (
            f"running as root, and {path} belongs to user {facts.st_uid}, who could change it; "
            f"chown root {path}"
        )
    shared = facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if shared and not (sticky_will_do and facts.st_mode & stat.S_ISVTX):
        return f"running as root, and others can write to {path}; chmod go-w {path}"
    return None


def _has_rights() -> bool:
    """Whether a signature may do what its author may not: as root, or with a capability."""
    if os.geteuid() == 0:
        return True
    status = Path("/proc/self/status").read_text()
    return re.search(r"^CapPrm:\s*0*[1-9a-f]", status, re.MULTILINE) is not None


def load_signatures(
    directories: Iterable[str | os.PathLike[str]] = (), *, builtin: bool = True
) -> Registry:
    """The built-in signatures, unless `builtin` is false, and those of `directories`."""
    registry = Registry()
    if builtin:
        registry.load_builtin()
    for directory in directories:
        registry.load_directory(directory)
    return registry
