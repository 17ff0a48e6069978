"""bpf/vmlinux.h for one kernel: the same types, with every field where this kernel has it.

A structure becomes a union of its fields, each behind as much padding as its offset. So fields may
overlap, stand in any order and be left out, and the compiler needs no more knowledge of the kernel.
A field that this kernel does not have is put at NOWHERE, and `bpf_core_field_exists` tells so.
"""

from __future__ import annotations

import re
from typing import Final

from proctree_ds.sources.bcc.btf import Btf

__all__ = ["NOWHERE", "kernel_types", "types_named_in"]

NOWHERE: Final = 1 << 24
"""An offset beyond any that a structure of the kernel has."""

_STRUCTURE: Final = re.compile(
    r"^(typedef )?struct ?(\w*) \{\n(.*?)^\}( \w+)?;$", re.MULTILINE | re.DOTALL
)
_ENUMERATION: Final = re.compile(r"^enum (\w+) \{\n(.*?)^\};$", re.MULTILINE | re.DOTALL)
_FIELD: Final = re.compile(r"^\t(.*?[ *])(\w+)((?:\[\w+\])?)( : 1)?;$", re.MULTILINE)
_ENUMERATOR: Final = re.compile(r"^\t(\w+) = \d+,$", re.MULTILINE)
_PRAGMA: Final = re.compile(r"^#pragma clang attribute .*$", re.MULTILINE)
_VERSION: Final = re.compile(r"___.*")

_RELOCATED: Final = frozenset({"cgroup_subsys_id", "bpf_func_id"})
"""Enumerations whose numbers differ from kernel to kernel; those of others are fixed."""


def types_named_in(header: str) -> set[str]:
    """The kernel's names of the types that bpf/vmlinux.h describes."""
    names = {match[2] or match[4].strip() for match in _STRUCTURE.finditer(header)}
    return {_VERSION.sub("", name) for name in names} | _RELOCATED


def kernel_types(header: str, btf: Btf) -> str:
    """The text of vmlinux.h, `header`, as a header for the kernel that `btf` describes."""
    text = _STRUCTURE.sub(lambda match: _structure(match, btf), _PRAGMA.sub("", header))
    text = _ENUMERATION.sub(lambda match: _enumeration(match, btf), text)
    return f"#define NOWHERE {NOWHERE}\n{text}"


def _structure(match: re.Match[str], btf: Btf) -> str:
    typedef, name, body, alias = match.groups("")
    kernel_name = _VERSION.sub("", name or alias.strip())
    lines = []
    constants = []
    for prefix, field, array, bit in _FIELD.findall(body):
        found = btf.field(kernel_name, field)
        offset = NOWHERE * 8 if found is None else found.bit_offset
        where = offset // 8
        lines.append(
            f"\t\tstruct {{ char before_{field}[{where}]; "
            + (f"unsigned char byte_of_{field}" if bit else f"{prefix}{field}{array}")
            + "; };"
        )
        if bit:
            constants.append(f"enum {{ bit_of_{field} = {offset % 8} }};\n")
    joined = "\n".join(lines)
    return f"{''.join(constants)}{typedef}struct {name} {{\n\tunion {{\n{joined}\n\t}};\n}}{alias};"


def _enumeration(match: re.Match[str], btf: Btf) -> str:
    name, body = match.groups()
    if name not in _RELOCATED:
        return match[0]
    here = btf.enumerators(name)
    return (
        f"enum {name} {{\n"
        + "".join(f"\t{key} = {here.get(key, NOWHERE)},\n" for key in _ENUMERATOR.findall(body))
        + "};"
    )
