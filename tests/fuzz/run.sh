#!/usr/bin/env bash
# Builds every fuzz target of this folder, replays its stored corpus and then fuzzes it for FUZZ_SECONDS (10).
#
#   tests/fuzz/run.sh [TARGET...]     all, or some of them
#   FUZZ_MERGE=1 tests/fuzz/run.sh    also takes into the stored corpus what the finds of earlier runs add to it
#
# A target is a file NAME.rs here and a [[bin]] fuzz_NAME in Cargo.toml. Stable Rust and a C++ compiler are enough.
# FUZZ_SEED (1) is the seed of the mutations, so that a run in CI finds what the run before it found; 0 takes one by chance.
# New finds are kept in target/fuzz/corpus-new, inputs that crash in target/fuzz/crashes.
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=${FUZZ_SECONDS:-10}
seed=${FUZZ_SEED:-1}
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    for file in tests/fuzz/*.rs; do
        targets+=("$(basename "$file" .rs)")
    done
fi

bins=()
for target in "${targets[@]}"; do
    bins+=(--bin "fuzz_$target")
done
# The profile of the tests: assertions and overflow checks are on, and the dependencies need no build of their own.
RUSTC_WORKSPACE_WRAPPER=$PWD/tests/fuzz/instrument.sh cargo build --features fuzz "${bins[@]}"
built=${CARGO_TARGET_DIR:-target}/debug

for target in "${targets[@]}"; do
    stored=tests/fuzz/corpus/$target
    new=target/fuzz/corpus-new/$target
    crashes=target/fuzz/crashes/$target
    log=target/fuzz/$target.log
    mkdir -p "$stored" "$new" "$crashes"
    fuzz() {
        local what=$1
        shift
        if ! "$built/fuzz_$target" -artifact_prefix="$crashes/" -max_len=4096 -timeout=10 "$@" >"$log" 2>&1; then
            tail -n 60 "$log"
            echo "fuzz $target: $what failed; the input is in $crashes/, the output in $log" >&2
            echo "again: $built/fuzz_$target $crashes/FILE" >&2
            exit 1
        fi
    }

    # -runs=0: no more than what is stored.
    fuzz "replay of the corpus" -runs=0 "$stored"
    echo "fuzz $target: $(find "$stored" -type f | wc -l) stored inputs pass"
    fuzz "fuzzing" -seed="$seed" -max_total_time="$seconds" -print_final_stats=1 "$new" "$stored"
    echo "fuzz $target: $(grep -o 'Done [0-9]* runs in [0-9]*' "$log") s, $(find "$new" -type f | wc -l) finds in $new"
    if [ -n "${FUZZ_MERGE:-}" ]; then
        fuzz "merge" -set_cover_merge=1 "$stored" "$new"
    fi
done
