#!/usr/bin/env bash
# Which crates cargo builds again after single edits, in a release build of `steady`.
#
# usage: bench/rebuild.sh
#
# Appends a comment to a file, builds, and puts the file back, for a kernel and for a fault; in between, everything is up to
# date. Exit code 0 where only the expected crates were built again, 1 otherwise. A build after an edit takes minutes on a small
# machine. Run it on a tree without other builds in progress.
set -euo pipefail
cd "$(dirname "$0")/.."

failed=0
edited=
kept=$(mktemp)
# The file gets a new time: cargo would take what was built of the edited one for what it is now.
restore() { [ -z "$edited" ] || cp "$kept" "$edited"; edited=; }
trap 'restore; rm -f "$kept"' EXIT

# built: the workspace's crates that a build compiles, sorted, in one line. Failed builds are errors.
built() {
    cargo build --release --package steady --message-format json-render-diagnostics 2>/dev/null | python3 -c '
import json, sys
crates = set()
for line in sys.stdin:
    message = json.loads(line)
    if message["reason"] == "build-finished" and not message["success"]:
        sys.exit("the build failed")
    if message["reason"] == "compiler-artifact" and not message["fresh"]:
        crates.add(message["manifest_path"].split("/")[-2])
print(" ".join(sorted(crates)) or "none")'
}

# edit FILE EXPECTED...: what is built again after a comment more in FILE must be among EXPECTED, and the first of them be built.
edit() {
    local file=$1 found crate
    shift
    cp "$file" "$kept"
    edited=$file
    printf '// edited\n' >>"$file"
    found=$(built)
    restore
    printf '%-52s built again: %s\n' "$file" "$found"
    for crate in $found; do
        case " $* " in *" $crate "*) ;; *) echo "  $crate: expected only $*"; failed=1 ;; esac
    done
    case " $found " in *" $1 "*) ;; *) echo "  $1: expected to be built again, was not"; failed=1 ;; esac
    built >/dev/null
}

printf '%-52s built: %s\n' "first, whatever was missing" "$(built)"
printf '%-52s built again: %s\n' "nothing edited" "$(built)"
edit crates/gr00t-cuda/src/kernels/norm.cu gr00t-cuda cli
edit crates/gr00t-lab/src/fault/mod.rs gr00t-lab cli
exit "$failed"
