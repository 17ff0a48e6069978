#!/usr/bin/env bash
# Sets this checkout up: system packages that are missing, a virtual environment in .venv, and the
# project in it. Says what it installs and why; does nothing when nothing has changed.
#
#   scripts/setup.sh demo     what running needs
#   scripts/setup.sh test     and what the tests need
#   scripts/setup.sh bench    and the watchers that we are measured beside
#
# PYTHON names the interpreter (3.11 or newer). By default it is the distribution's own, which is
# built with optimisations that some others lack and runs this faster (14 against 17 us of CPU a process life, once); else the first found.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
purpose="${1:-test}"
stamp=".venv/.proctree-setup-$purpose"

say() { printf '==> %s\n' "$*"; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# ------------------------------------------------------------------------------- interpreter

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    if [[ -n "${PYTHON:-}" ]]; then
        is_new_enough "$PYTHON" || fail "PYTHON=$PYTHON is not a Python 3.11 or newer"
        printf '%s' "$PYTHON"
        return
    fi
    local candidate
    for candidate in /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do
        if is_new_enough "$candidate"; then
            printf '%s' "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer found; install one, or name it: make PYTHON=/path/to/python3"
}

python="$(find_python)"

# What the set-up was made from: when all of it is as it was, there is nothing to do.
fingerprint="$(
    {
        "$python" -c 'import sys; print(sys.version, sys.executable)'
        pwd
        cat pyproject.toml hatch_build.py scripts/setup.sh
    } | sha256sum
)"
if [[ -x .venv/bin/python && -f "$stamp" && "$(<"$stamp")" == "$fingerprint" ]]; then
    exit 0
fi

# --------------------------------------------------------------------------- system packages

packages=()
need() { # need PACKAGE WHY CHECK...: the package is wanted when the check fails
    local package="$1" why="$2"
    shift 2
    if ! "$@" >/dev/null 2>&1; then
        packages+=("$package")
        say "missing $package: $why"
    fi
}
has_library() { { ldconfig -p || /sbin/ldconfig -p; } 2>/dev/null | grep -F "$1"; }
venv_works() { .venv/bin/python -m pip --version; }
can_make_venv() { venv_works || "$python" -c 'import ensurepip, venv'; }

need "python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv" \
    "makes the virtual environment" can_make_venv
need clang "compiles the kernel programs in bpf/" command -v clang
need llvm "strips their debug information (llvm-strip)" command -v llvm-strip
need libbpf-dev "the headers they include" test -e /usr/include/bpf/bpf_helpers.h
need libbpf1 "loads them into the kernel" has_library libbpf.so.1
need python3-bpfcc "BCC, the other loader, which compiles them where they run" \
    test -e /usr/lib/python3/dist-packages/bcc/libbcc.py
if [[ "$purpose" != demo ]]; then
    need gcc "compiles the small programs that live tests watch" command -v gcc
    need libc6-dev "the C library's headers for them" test -e /usr/include/stdlib.h
    need systemd "checks packaging/proctree-detect.service (systemd-analyze)" \
        command -v systemd-analyze
    need graphviz "draws what proctree dot writes" command -v dot
    need stress-ng "makes storms of processes in live tests" command -v stress-ng
fi
if [[ "$purpose" == bench ]]; then
    need auditd "is measured beside proctree-detect" command -v auditd
    need bpftrace "is measured beside proctree-detect" command -v bpftrace
    need forkstat "is measured beside proctree-detect" command -v forkstat
fi

log="$(mktemp)"
trap 'rm -f "$log"' EXIT

as_root() {
    if [[ "$(id -u)" == 0 ]]; then
        "$@"
    else
        sudo -n "$@"
    fi
}
apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends "$@" >>"$log" 2>&1
}
install_packages() {
    local package failed=()
    apt_install "$@" && return
    say "refreshing the package lists (apt-get update), for the install needs it"
    as_root apt-get update -q >>"$log" 2>&1 || true
    apt_install "$@" && return
    for package in "$@"; do # one that this release does not have must not stop the others
        apt_install "$package" || failed+=("$package")
    done
    [[ ${#failed[@]} == 0 ]] && return
    tail -n 5 "$log" >&2
    say "not installed: ${failed[*]}; going on without"
}

if [[ ${#packages[@]} -gt 0 ]]; then
    if ! command -v apt-get >/dev/null; then
        say "no apt-get here: install the like of ${packages[*]} by hand; going on without"
    elif [[ "$(id -u)" != 0 ]] && ! sudo -n true 2>/dev/null; then
        say "not root: run 'sudo apt-get install ${packages[*]}' for these; going on without"
    else
        say "installing ${packages[*]}"
        install_packages "${packages[@]}"
    fi
fi

# ----------------------------------------------------------------------- virtual environment

is_same_python() {
    local which='import sys; print(sys.version_info[:3], sys.base_prefix)'
    [[ "$(.venv/bin/python -c "$which" 2>/dev/null)" == "$("$python" -c "$which")" ]]
}

if ! { venv_works && is_same_python; } >/dev/null 2>&1; then
    say "creating the virtual environment .venv ($("$python" --version))"
    if ! "$python" -m venv --clear .venv >"$log" 2>&1; then
        cat "$log" >&2
        fail "$python cannot make a virtual environment: install the package named above"
    fi
fi

say "installing proctree-ds and its development tools into .venv"
if ! .venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' >"$log" 2>&1; then
    cat "$log" >&2
    fail "pip could not install the project (is the network there?)"
fi

printf '%s\n' "$fingerprint" >"$stamp"
if [[ "$purpose" == test ]]; then
    printf '%s\n' "$fingerprint" >".venv/.proctree-setup-demo"
fi
