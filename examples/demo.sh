#!/usr/bin/env bash
# Shows proctree-detect at work. Where the kernel allows it, live: a script does harmlessly what
# intruders do, and the built-in signatures notice. Elsewhere a bundled history is replayed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bin=.venv/bin
seconds=15
width="$(tput cols 2>/dev/null || echo 100)"
((width >= 60)) || width=100
export COLUMNS=$((width < 120 ? width : 120))
work="$(mktemp -d)"
detector=""

bold() { if [[ -t 1 ]]; then printf '\033[1m%s\033[0m\n' "$*"; else printf '%s\n' "$*"; fi; }
clean_up() {
    if [[ -n "$detector" ]]; then kill "$detector" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

replay() {
    local log=src/proctree_ds/data/webshell.jsonl
    bold "Replaying a bundled history: from a web request to root, in 118 events"
    echo
    "$bin/proctree-detect" --replay "$log" --output table || true
    echo
    bold "What happened below the web server, by who made whom"
    echo
    "$bin/proctree" tree "$log" --all --pid 560 --output table
}

live() {
    local log="$work/history.jsonl"
    bold "Watching this machine for $seconds seconds, while a script does harmlessly what intruders do"
    echo
    "$bin/proctree-detect" --duration "${seconds}s" --output table --write-log "$log" &
    detector=$!
    until [[ -s "$log" ]]; do # the log begins with the first picture
        kill -0 "$detector" 2>/dev/null || return 1
        sleep 0.05
    done
    "$bin/python" examples/harmless_intrusion.py --pause 1 &
    local workload=$!
    wait "$workload"
    wait "$detector" || true
    detector=""
    echo
    bold "What happened, by who made whom"
    echo
    "$bin/proctree" tree "$log" --all --pid "$workload" --output table
    echo
    bold "Where the orphan of step 7 came from: its parents exited long ago, the tree still knows"
    echo
    local orphan
    orphan="$("$bin/proctree" tree "$log" --all --pid "$workload" --output json | "$bin/python" -c '
import json, sys
for line in sys.stdin:
    process = json.loads(line)
    if process["cmd"] == ["id"] and process["parent_entity_id"] != process["original_parent_entity_id"]:
        print(process["entity_id"])
')"
    "$bin/proctree" lineage "$log" --entity "$orphan" --max-depth 4 --output table
}

if why="$("$bin/proctree" ps live --output json 2>&1 >/dev/null)"; then
    live
else
    printf 'Not live: %s\n\n' "${why#proctree: }"
    replay
fi
