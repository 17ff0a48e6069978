"""Compiles one C source by BCC and ends: a script, run by compiler.py in a process of its own.

BCC brings all of LLVM, some 130 MB of memory that stay, and writes to standard error. Here both
end with this process. Reads from standard input a JSON object {"source", "flags", "search",
"result"}; writes what was compiled to the file "result": a JSON object from the name of each
function to its instructions in hexadecimal. The exit status tells what went wrong.
"""

import importlib.machinery
import importlib.util
import json
import sys
from collections.abc import Sequence
from typing import Any

MISSING = 3
ANOTHER = 4
FAILED = 5


def find_bcc(search: Sequence[str]) -> Any:
    """iovisor's BCC, from the first of these directories that has a package of its name."""
    spec = importlib.machinery.PathFinder.find_spec("bcc", [*search, *sys.path])
    if spec is None or spec.loader is None:
        sys.exit(MISSING)
    module = importlib.util.module_from_spec(spec)
    sys.modules["bcc"] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # noqa: BLE001 - whatever it is that has this name
        sys.stderr.write(f"{spec.origin}: {error}")
        sys.exit(MISSING if isinstance(error, OSError) else ANOTHER)
    if not hasattr(module, "BPF"):
        sys.stderr.write(str(spec.origin))
        sys.exit(ANOTHER)
    return module


def main() -> None:
    """See above."""
    task = json.load(sys.stdin)
    bcc = find_bcc(task["search"])
    try:
        program = bcc.BPF(text=task["source"].encode(), cflags=task["flags"])
    except Exception as error:  # noqa: BLE001 - it raises nothing more special
        sys.stderr.write(f"{error}\n")
        sys.exit(FAILED)
    library, module = bcc.lib, program.module
    names = [
        library.bpf_function_name(module, index)
        for index in range(library.bpf_num_functions(module))
    ]
    functions = {name.decode(): program.dump_func(name).hex() for name in names}
    with open(task["result"], "w") as result:
        json.dump(functions, result)


if __name__ == "__main__":
    main()
