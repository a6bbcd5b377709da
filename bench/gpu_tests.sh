#!/usr/bin/env bash
# Tests on a GPU side by side, each in a process of its own.
#
# usage: bench/gpu_tests.sh TEST_BINARY FOLDER JOBS
#
# Tests that are ignored where there is no GPU must not pass for it here: they are run, and fail. FOLDER gets the output of each
# test; printed are the outputs of those that failed, and the counts. The exit code is 0 where all passed.
set -uo pipefail

if [ $# -ne 3 ]; then
    echo "usage: bench/gpu_tests.sh TEST_BINARY FOLDER JOBS" >&2
    exit 2
fi
tests=$1 folder=$2 jobs=$3
rm -rf "$folder"
mkdir -p "$folder" || exit 2
"$tests" --list --include-ignored | sed -n 's/: test$//p' >"$folder/names"
nl -w1 -s$'\t' "$folder/names" | xargs -d '\n' -P "$jobs" -I{} bash -c '
    IFS=$'"'\t'"' read -r number name <<<"$1"
    "$2" --include-ignored --exact "$name" >"$3/$number.txt" 2>&1' _ {} "$tests" "$folder"
count=$(wc -l <"$folder/names") passed=0
for number in $(seq "$count"); do
    if grep -q '^test result: ok\. 1 passed; 0 failed' "$folder/$number.txt"; then
        passed=$((passed + 1))
    else
        cat "$folder/$number.txt"
    fi
done
verdict=FAILED
[ "$count" -gt 0 ] && [ "$passed" -eq "$count" ] && verdict=ok
printf 'test result: %s. %s passed; %s failed; %s side by side\n' "$verdict" "$passed" "$((count - passed))" "$jobs"
[ "$verdict" = ok ]
