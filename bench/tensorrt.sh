#!/usr/bin/env bash
# TensorRT beside this project's engine on one GPU: engines of the demo's DiT and of one of full size, built, run and timed.
#
# usage: bench/tensorrt.sh BINARY LIBRARIES RECORDED OUT_DIR PART...
#
# BINARY is `steady`; LIBRARIES the folder with libnvinfer (bench/tensorrt_libraries.py brings it to a machine without a
# network); RECORDED what `steady record --checkpoint synth:n1.6 --inferences 1 --out RECORDED` wrote. Leaves log.txt, the
# engines' records, what they are made of and their outputs in OUT_DIR, which the judging (`steady diagnose --b trace:`)
# needs no GPU for. The parts are demo, f32, fp16, held, ours and head; a part that fails does not stop the others.
#
# fp16 is a graph in f32 whose builder may choose fp16 (`--builder-flag fp16`); held a graph in fp16, every layer held to
# its type. Engines are built for one shape: one observation of 121 tokens.
set -uo pipefail

if [ $# -lt 5 ]; then
    echo "usage: bench/tensorrt.sh BINARY LIBRARIES RECORDED OUT_DIR PART..." >&2
    exit 2
fi
steady=$(realpath "$1") recorded=$(realpath "$3")
TENSORRT_PATH=$(realpath "$2")
# Its NVRTC looks for its builtins by name.
export TENSORRT_PATH LD_LIBRARY_PATH=$TENSORRT_PATH${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
mkdir -p "$4" && out=$(realpath "$4") || exit 2
cd "$(dirname "$0")/.." || exit 2
work=${WORK:-/tmp/tensorrt-work}
mkdir -p "$work"
failed=0

# step SECONDS COMMAND...: runs a command, and notes how it ended and how long it took.
step() {
    local limit=$1 code=0 started=$EPOCHREALTIME
    shift
    printf '\n== %s\n' "${*//$steady/steady}" | tee -a "$out/log.txt"
    timeout --kill-after=5 "$limit" "$@" >"$work/said" 2>&1 || code=$?
    tee -a "$out/log.txt" <"$work/said" | tail -n 30 | cut -c 1-1500
    [ "$code" -eq 0 ] || failed=1
    python3 -c "print(f'exit code $code, {$EPOCHREALTIME - $started:.1f} s')" | tee -a "$out/log.txt"
    return "$code"
}

# engine NAME SECONDS RECORDED REPEATS OPTION...: builds, asks the engine what it is, runs and times it.
engine() {
    local name=$1 limit=$2 inputs=$3 repeats=$4
    shift 4
    step "$limit" "$steady" engine build --out "$work/$name.engine" --timing-cache "$work/times" "$@" || return
    cp "$work/$name.engine.json" "$out/"
    rm -rf "${out:?}/$name"
    step 60 "$steady" engine run "$work/$name.engine" --bindings "$inputs" --round-inputs --repeat "$repeats" \
        --out "$out/$name"
    step 60 "$steady" engine inspect "$work/$name.engine" --layers "$out/$name.layers.json" | head -n 40
}

nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader | tee -a "$out/log.txt"
full=(--checkpoint synth:n1.6 --shapes batch=1 tokens=121 --target tensorrt:8.5)
for part in "${@:5}"; do
    case $part in
    demo)
        small=(--checkpoint demo/checkpoint --shapes batch=1 tokens=121 --target tensorrt:8.5)
        [ -d "$work/recorded" ] || step 60 "$steady" record --inferences 4 --out "$work/recorded"
        engine demo-f32 120 "$work/recorded" 100 "${small[@]}"
        engine demo-fp16 120 "$work/recorded" 100 "${small[@]}" --builder-flag fp16
        engine demo-held 120 "$work/recorded" 100 "${small[@]}" --precision fp16
        engine demo-mixed 120 "$work/recorded" 100 "${small[@]}" --precision mixed-fp16
        ;;
    f32) engine full-f32 240 "$recorded" 100 "${full[@]}" ;;
    fp16) engine full-fp16 300 "$recorded" 200 "${full[@]}" --builder-flag fp16 ;;
    held) engine full-held 300 "$recorded" 200 "${full[@]}" --precision fp16 ;;
    head) engine head-fp16 400 "$recorded" 100 "${full[@]}" --component action_head --builder-flag fp16 ;;
    ours)
        for precision in bf16 fp16; do
            step 120 "$steady" bench --checkpoint synth:n1.6 --engine cuda --precision "$precision" --workload W1 \
                --json "$out/bench-$precision.json"
        done
        ;;
    *)
        echo "$part: expected demo, f32, fp16, held, head or ours" >&2
        exit 2
        ;;
    esac
done
exit "$failed"
