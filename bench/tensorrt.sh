#!/usr/bin/env bash
# TensorRT beside this project's engine on one GPU: engines of the demo's DiT and of one of full size, built, run and timed.
#
# usage: bench/tensorrt.sh BINARY LIBRARIES RECORDED OUT_DIR PART...
#
# BINARY is `steady`, with examples/misread_buffers beside it; LIBRARIES the folder with libnvinfer (bench/tensorrt_libraries.py brings it to a machine without a
# network); RECORDED what `steady record --checkpoint synth:n1.6 --inferences 1 --out RECORDED` wrote. Leaves log.txt, the
# engines' records, what they are made of and their outputs in OUT_DIR, which the judging (`steady diagnose --b trace:`)
# needs no GPU for. The parts are ours, policy and SIZE-KIND, SIZE one of demo, full and head (the four Euler steps of full
# size), KIND one of f32, fp16 (a graph in f32 whose builder may choose fp16), held (a graph in fp16, every layer held to its
# type), mixed (likewise in mixed-fp16) and typed (the DiT in fp16 with fp16 bindings, the rest of the policy in bf16). `policy`
# evaluates and diagnoses the demo's policy with each of its engines that is there. A part that fails does not stop the others.
# Engines are built for one shape: one observation, of 121 tokens in full size and of the demo's 117.
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
# Engines and graphs stay there for the parts of a later call.
work=${WORK:-$TENSORRT_PATH/work}
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
for part in "${@:5}"; do
    case $part in
    ours)
        for precision in bf16 fp16; do
            step 120 "$steady" bench --checkpoint synth:n1.6 --engine cuda --precision "$precision" --workload W1 \
                --json "$out/bench-$precision.json"
        done
        continue
        ;;
    policy)
        for kind in f32 fp16 held mixed typed; do
            file=$work/demo-$kind.engine
            [ -f "$file" ] || continue
            step 60 "$steady" eval --checkpoint demo/checkpoint --dataset-path demo/dataset --traj-ids 0,1,2,3 \
                --engine "tensorrt:$file" --json "$out/eval-$kind.json" --out "$work/eval-$kind"
            step 60 "$steady" diagnose --b "tensorrt:$file" --out "$work/diagnosis-$kind"
            cp "$work/diagnosis-$kind/diagnosis.json" "$out/diagnosis-$kind.json"
        done
        step 120 "$(dirname "$steady")/examples/misread_buffers" "$work/demo-typed.engine"
        continue
        ;;
    demo-*)
        [ -d "$work/recorded" ] || step 60 "$steady" record --inferences 4 --out "$work/recorded"
        inputs=$work/recorded tokens=117 model=(--checkpoint demo/checkpoint)
        ;;
    full-*) inputs=$recorded tokens=121 model=(--checkpoint synth:n1.6) ;;
    head-*) inputs=$recorded tokens=121 model=(--checkpoint synth:n1.6 --component action_head) ;;
    *)
        echo "$part: expected ours, policy, or demo, full or head with -f32, -fp16, -held, -mixed or -typed" >&2
        exit 2
        ;;
    esac
    shapes=(batch=1 "tokens=$tokens")
    case ${part#*-} in
    f32) kind=() ;;
    fp16) kind=(--builder-flag fp16) ;;
    held) kind=(--precision fp16) ;;
    mixed) kind=(--precision mixed-fp16) ;;
    typed)
        kind=(--precision "$work/dit-fp16.toml" --io-names nvidia) shapes=(batch_size=1 "vl_seq_len=$tokens")
        printf 'base = "bf16"\n[[site]]\npattern = "{dit,timestep_embedding}"\nstorage = "fp16"\ncompute = "fp16"\n' \
            >"$work/dit-fp16.toml"
        ;;
    *)
        echo "$part: expected a kind of f32, fp16, held, mixed or typed" >&2
        exit 2
        ;;
    esac
    engine "$part" 300 "$inputs" 200 --target tensorrt:8.5 "${model[@]}" "${kind[@]}" --shapes "${shapes[@]}"
done
exit "$failed"
