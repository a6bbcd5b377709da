#!/usr/bin/env bash
# Fuzzes the readers of files: fuzz/run.sh MINUTES [TARGET...] runs each target (all of them otherwise) for so long, one
# after the other. Needs cargo-fuzz (cargo install cargo-fuzz) and Python. With SANITIZER=address, which needs a nightly
# Rust or RUSTC_BOOTSTRAP=1, memory errors of C and assembly are found too.
set -uo pipefail
cd "$(dirname "$0")"
minutes=${1:?usage: fuzz/run.sh MINUTES [TARGET...]}
shift
python3 corpus.py
# Errors that record where they were made would take most of the time, and the AV1 decoder's checks of a build with debug
# assertions nearly all of it.
export RUST_LIB_BACKTRACE=0
targets=("$@")
[ $# -gt 0 ] || mapfile -t targets < <(sed -n 's/^name = "\(.*\)"$/\1/p' Cargo.toml | tail -n +2)
failed=0
for target in "${targets[@]}"; do
    dict=()
    case $target in
        config | processor | statistics | tokenizer | metadata | calibration | trace) dict=(-dict=json.dict) ;;
    esac
    # What is found beyond the corpus of fixtures is kept beside it; inputs that fail lie in artifacts/TARGET.
    mkdir -p "found/$target"
    log=$(mktemp)
    cargo fuzz run --fuzz-dir . --sanitizer "${SANITIZER:-none}" "$target" "found/$target" "corpus/$target" -- \
        -max_total_time=$((minutes * 60)) -rss_limit_mb=1024 -malloc_limit_mb=1024 -timeout=25 -print_final_stats=1 \
        "${dict[@]}" >"$log" 2>&1
    code=$?
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    memory=$(sed -n 's/^stat::peak_rss_mb: *//p' "$log")
    printf '%-12s %10s executions, %5s MB at most, %s\n' "$target" "${runs:-?}" "${memory:-?}" \
        "$([ $code = 0 ] && echo "no finding" || grep -m1 -E '^==|panicked|ERROR|SUMMARY' "$log")"
    [ $code = 0 ] || { failed=1; mv "$log" "found/$target.log"; }
    rm -f "$log"
done
exit $failed
