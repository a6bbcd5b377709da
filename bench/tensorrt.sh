#!/usr/bin/env bash
# TensorRT beside this project's engine on one GPU: engines of the demo's DiT and of one of full size, built, run and timed.
#
# usage: bench/tensorrt.sh BINARY LIBRARIES RECORDED OUT_DIR PART...
#
# BINARY is `steady`, with examples/misread_buffers beside it; LIBRARIES the folder with libnvinfer (bench/tensorrt_libraries.py brings it to a machine without a
# network); RECORDED what `steady record --checkpoint synth:n1.6 --inferences 1 --out RECORDED` wrote. Leaves log.txt, the
# engines' records, what they are made of and their outputs in OUT_DIR, which the judging (`steady diagnose --b trace:`)
# needs no GPU for. The parts are ours, policy and SIZE-KIND, SIZE one of demo, full, growth and head (the four Euler steps of full
# size), KIND one of f32, fp16 (a graph in f32 whose builder may choose fp16), held (a graph in fp16, every layer held to its
# type), mixed (likewise in mixed-fp16) and typed (the DiT in fp16 with fp16 bindings, the rest of the policy in bf16). `policy`
# evaluates and diagnoses the demo's policy with each of its engines that is there. A part that fails does not stop the others.
# Engines are built for one shape: one observation, of 121 tokens in full size and of the demo's 117.
#
# The DiT of full size is built in engines of BLOCKS blocks (4 otherwise; 32 is one engine), side by side, and run as one;
# growth builds its first 1, 2, 4 and 8 blocks side by side and runs none. Each build gets LIMIT seconds (300 otherwise) and
# leaves what the builder said, with the seconds. LEVEL=0 to 5 is TensorRT 8.6's optimization level (with
# TARGET=tensorrt:8.6). CUBLAS=1 has builders choose products of cuBLAS too, whose libraries must be
# in LIBRARIES then.
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
target=${TARGET:-tensorrt:8.5} blocks=${BLOCKS:-4} limit=${LIMIT:-300}
builder=()
[ -z "${CUBLAS:-}" ] || builder=(--cublas)
[ -z "${LEVEL:-}" ] || builder+=(--optimization-level "$LEVEL")

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

# built FIRST:END NAME OPTION...: an engine of these blocks as NAME, and how long it took, for builds side by side.
built() {
    local code=0 started=$EPOCHREALTIME range=$1 name=$2
    shift 2
    timeout --kill-after=5 "$limit" "$steady" engine build --component "dit.blocks.$range" --out "$work/$name.engine" \
        --log "$out/$name.log.txt" "${builder[@]}" "$@" >"$out/$name.said.txt" 2>&1 || code=$?
    cp "$work/$name.engine.json" "$out/" 2>/dev/null
    python3 -c "print(f'$name: exit code $code, {$EPOCHREALTIME - $started:.1f} s')" | tee -a "$out/log.txt"
    return "$code"
}

# side_by_side NAME RANGE... -- OPTION...: engines of these blocks; their files are left in `files`.
side_by_side() {
    local name=$1 jobs=() code=0 range job
    shift
    files=()
    printf "\n== %s\n" "$name" | tee -a "$out/log.txt"
    local ranges=()
    while [ "$1" != -- ]; do ranges+=("$1") && shift; done
    shift
    for range in "${ranges[@]}"; do
        files+=("$work/$name-${range/:/-}.engine")
        built "$range" "$name-${range/:/-}" "$@" &
        jobs+=($!)
    done
    for job in "${jobs[@]}"; do wait "$job" || code=1; done
    [ "$code" -eq 0 ] || failed=1
    return "$code"
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
    full-* | growth-*) inputs=$recorded tokens=121 model=(--checkpoint synth:n1.6) ;;
    head-*) inputs=$recorded tokens=121 model=(--checkpoint synth:n1.6 --component action_head) ;;
    *)
        echo "$part: expected ours, policy, or demo, full, growth or head with -f32, -fp16, -held, -mixed or -typed" >&2
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
    options=(--target "$target" "${model[@]}" "${kind[@]}" --shapes "${shapes[@]}")
    case $part in
    growth-*) side_by_side "$part" 0:1 0:2 0:4 0:8 -- "${options[@]}" ;;
    full-*)
        ranges=()
        for ((first = 0; first < 32; first += blocks)); do ranges+=("$first:$((first + blocks))"); done
        rm -rf "${out:?}/$part"
        side_by_side "$part" "${ranges[@]}" -- "${options[@]}" &&
            step 120 "$steady" engine run "${files[@]}" --bindings "$inputs" --round-inputs --repeat 200 --out "$out/$part"
        ;;
    *) engine "$part" "$limit" "$inputs" 200 "${options[@]}" "${builder[@]}" ;;
    esac
done
exit "$failed"
