#!/bin/sh
# Called by cargo in place of rustc, for the crates of this work space alone: they are built with the counters that
# libFuzzer steers by, and their dependencies are the same as in any other build.
exec "$@" --cfg fuzzing -Copt-level=3 -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares
