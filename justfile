# What people type. `just` alone lists it; nothing depends on it, every line runs without it.

_list:
    @just --list --unsorted

# What a change must pass before it is sent: formatting, lints, all tests.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --release -- -D warnings
    cargo test --release --workspace

# Tests whose names contain a word: `just test mask`.
test *words:
    cargo test --release --workspace -- {{ words }}

# The rules of ARCHITECTURE.md: seconds, and needs no other crate built.
structure:
    cargo test --release --package steadyhand-structure

# The embedded policy on its embedded episodes.
demo *options:
    cargo run --release -- demo {{ options }}

# Which planted faults the diagnosis finds.
faults:
    cargo run --release -- faults

# Compares everything that this build prints and writes with an older binary.
numbers old:
    cargo build --release
    bench/same_numbers.py {{ old }} target/release/steady

# Everything that is checked and measured on this machine's GPU.
gpu out="target/gpu":
    cargo build --release
    bench/gpu.sh target/release/steady "$(cargo test --release --package steadyhand-gr00t-cuda --test cuda --no-run 2>&1 | sed -n 's|.*(\(target/.*/cuda-[0-9a-f]*\))$|\1|p')" {{ out }}

# Every command of the documentation.
commands:
    cargo build --release
    .ci/commands.py target/release/steady

# Kills a long evaluation at random and shows that nothing is lost.
kill:
    cargo build --release
    bench/kill_eval.py target/release/steady

# What remains to be rebuilt after single edits.
rebuild:
    bench/rebuild.sh
