#!/usr/bin/env bash
# Everything that is measured on a GPU, in one call: tests, comparisons with the official code's results, times.
#
# usage: bench/gpu.sh BINARY TEST_BINARY OUT_DIR [LABEL [PART...]]
#
# BINARY is `steady`, TEST_BINARY the compiled test `cuda` of crates/gr00t-cuda, both built elsewhere: the machine needs the
# checked-out tree, an NVIDIA driver, NVRTC, bash and python3 (its standard library, for the summary), no cargo.
# Leaves summary.md, log.txt, bench.json and policies.json in OUT_DIR. A check that fails does not stop the others; the exit code is
# 0 where all passed, 1 where one did not, 2 for bad arguments.
#
# The parts are times, peers (PyTorch, where python3 has it), tests, checks, policies, full (the published size beside the
# reference) and sanitizers; all of them without any. Where a machine is lent for less time than they take, a later call with
# the same OUT_DIR and other parts goes on, and its summary holds all that the calls found.
#
# MORE_GOLDENS may name a folder of goldens of N1.7 besides the one in tests/fixtures.
set -uo pipefail

parts="times peers tests checks policies full sanitizers"
if [ $# -lt 3 ]; then
    echo "usage: bench/gpu.sh BINARY TEST_BINARY OUT_DIR [LABEL [PART...]]" >&2
    exit 2
fi
for program in "$1" "$2"; do
    if [ ! -x "$program" ]; then
        echo "$program: expected a program, found none" >&2
        exit 2
    fi
done
for part in "${@:5}"; do
    if [[ " $parts " != *" $part "* ]]; then
        echo "$part: expected one of $parts" >&2
        exit 2
    fi
done
steady=$(realpath "$1")
tests=$(realpath "$2")
mkdir -p "$3" || exit 2
out=$(realpath "$3")
label=${4:-}
[ $# -gt 4 ] && parts="${*:5}"
more_goldens=${MORE_GOLDENS:+$(realpath "$MORE_GOLDENS")}
cd "$(dirname "$0")/.." || exit 2

work=$out/work
log=$out/log.txt
checks=$work/checks.tsv
mkdir -p "$work/bench"
# A kernel cache of its own, so that the first start is a cold one.
export XDG_CACHE_HOME="$work/cache"
failed=0

# part NAME: whether this call has the part.
part() {
    [[ " $parts " == *" $1 "* ]]
}

# Seconds that a command may take.
limit=60

# check NAME COMMAND...: runs a command and notes name, exit code (124 after too long), seconds and output file.
check() {
    local name=$1 code=0 started=${EPOCHREALTIME/[.,]/} tenths seconds
    shift
    local output=$work/$name.txt
    printf '\n== %s: %s\n' "$name" "$*" | tee -a "$log"
    timeout --kill-after=10 "$limit" "$@" >"$output" 2>&1 || code=$?
    tenths=$(((${EPOCHREALTIME/[.,]/} - started) / 100000))
    seconds=$((tenths / 10)).$((tenths % 10))
    cat "$output" >>"$log"
    if [ "$code" -ne 0 ]; then
        failed=1
        tail -n 25 "$output"
    fi
    printf '%s: exit code %s, %s s\n' "$name" "$code" "$seconds" | tee -a "$log"
    printf '%s\t%s\t%s\t%s\n' "$name" "$code" "$seconds" "$output" >>"$checks"
}

# bench NAME MODEL OPTION...: a run of `steady bench` whose JSON is kept.
bench() {
    local name=$1 model=$2
    shift 2
    check "bench-$name" "$steady" bench --checkpoint "synth:$model" --engine cuda --label "$label" \
        --json "$work/bench/$name.json" "$@"
}

if part times; then
    check device nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader
    # The cold start comes first: it compiles the kernels that later ones find.
    start=(--workload W1 --precision bf16 --warmup 0 --iterations 1)
    limit=120 bench start-cold n1.6 "${start[@]}"
    bench start-warm n1.6 "${start[@]}"
    check doctor "$steady" doctor
    for workload in W1 W2; do
        for precision in bf16 mixed fp16; do
            bench "$workload-$precision" n1.6 --workload "$workload" --precision "$precision"
        done
        bench "$workload-fp8" n1.6 --workload "$workload" --precision fp8 --calibrate
        # N1.7's images have 256x256 pixels, 64 tokens.
        bench "N7$workload-bf16" n1.7 --workload "$workload" --precision bf16
        bench "N7$workload-fp8" n1.7 --workload "$workload" --precision fp8 --calibrate
    done
fi

if part peers && python3 -c 'import torch' 2>/dev/null; then
    limit=240 check peers python3 bench/peers/pytorch.py --json "$out/peers.json"
elif part peers; then
    echo "torch: not installed, peers left out" | tee -a "$log"
fi

if part tests; then
    # Trials that are ignored where there is no GPU must not pass for it here. One after the other: contexts of several
    # processes take turns on the GPU, and a test of its memory must be alone.
    limit=420 check tests "$tests" --include-ignored
fi

if part checks; then
    for precision in f32 bf16 fp16 mixed mixed-fp16; do
        check "verify-golden-$precision" "$steady" verify tests/fixtures/golden --engine cuda --precision "$precision"
        check "verify-golden-n1.7-$precision" "$steady" verify tests/fixtures/golden_n1d7 --engine cuda \
            --precision "$precision"
    done
    if [ -n "$more_goldens" ]; then
        for precision in f32 bf16; do
            check "verify-more-goldens-$precision" "$steady" verify "$more_goldens" --engine cuda --precision "$precision"
        done
    fi
    # `compare` only measures; `diagnose` judges, and fails for an engine that is not healthy.
    for precision in f32 bf16 mixed; do
        check "verify-demo-$precision" "$steady" verify tests/fixtures/demo_expected --engine cuda \
            --precision "$precision"
        check "eval-demo-$precision" "$steady" eval --model-path demo/checkpoint --dataset-path demo/dataset \
            --traj-ids 0 1 2 3 --noise tests/fixtures/demo_expected --engine cuda --precision "$precision" \
            --out "$work/eval-demo-$precision"
        check "compare-$precision" "$steady" compare --b "cuda:$precision" --out "$work/compare-$precision"
    done
    for precision in f32 bf16 mixed fp16 fp8; do
        check "diagnose-$precision" "$steady" diagnose --b "cuda:$precision" --out "$work/diagnose-$precision"
        check "diagnose-n1.7-$precision" "$steady" diagnose --model-path synth:tiny-n1.7 --inferences 2 \
            --b "cuda:$precision" --out "$work/diagnose-n1.7-$precision"
    done
fi

if part policies; then
    # What each policy costs, here and emulated; fails where the emulation does not predict this device's error.
    check calibrate "$steady" precision calibrate --frames 64 --out "$work/calibration.json"
    printf 'base = "fp8"\ncalibration = "calibration.json"\n' >"$work/fp8-calibrated.toml"
    limit=300 check policies "$steady" precision table --engine cuda --noise tests/fixtures/demo_expected \
        --precisions "f32,bf16,mixed,fp16,mixed-fp16,fp8,$work/fp8-calibrated.toml" \
        --latency synth:n1.6 --workload W1,W2 --json "$out/policies.json"
    # The folder of this run says nothing to who reads the table.
    [ ! -f "$out/policies.json" ] || sed -i "s|$work/||" "$out/policies.json"
fi

if part full; then
    # The full size: every tensor of an inference beside the reference's, neither trace in memory.
    for model in n1.6 n1.7; do
        limit=200 check "compare-full-$model" "$steady" compare --model-path "synth:$model" --inferences 1 \
            --b cuda:bf16 --out "$work/compare-full-$model"
    done
fi

# Looks beside the toolkit too: its tools are often not in PATH.
sanitizer=$(command -v compute-sanitizer || find /usr/local/cuda*/bin /usr/local/cuda*/compute-sanitizer \
    -maxdepth 1 -name compute-sanitizer -print -quit 2>/dev/null)
if part sanitizers && [ -z "$sanitizer" ]; then
    echo "compute-sanitizer: not installed, left out" | tee -a "$log"
elif part sanitizers; then
    for tool in memcheck racecheck; do
        for precision in bf16 fp8 f32; do
            limit=120 check "$tool-$precision" "$sanitizer" --tool "$tool" --error-exitcode 1 "$steady" compare \
                --inferences 1 --b "cuda:$precision" --out "$work/$tool-$precision"
            limit=120 check "$tool-n1.7-$precision" "$sanitizer" --tool "$tool" --error-exitcode 1 "$steady" compare \
                --model-path synth:tiny-n1.7 --inferences 1 --b "cuda:$precision" --out "$work/$tool-n1.7-$precision"
        done
    done
fi

python3 bench/gpu_summary.py "$work" "$out" "$label" || failed=1
cat "$out/summary.md"
exit "$failed"
