#!/bin/sh
# From nothing to a face that listens: a corpus, the three stages, an evaluation, a bundle, and motion from it.
#
#   examples/training/from_nothing.sh [CONFIG] [FOLDER]
#
# CONFIG is a packaged configuration or a TOML file: tiny, bundled, published_tiny, published_small, published.
# HOURS (of conversation) and STEPS (of every stage) make it shorter or longer. docs/tutorial.md explains each line.
set -eu
config=${1:-tiny}
out=${2:-out}
hours=${HOURS:-0.2}

unils-train synth --out "$out/corpus" --hours "$hours" --motion-only-hours "$hours" --val-hours 0.03 --test-hours 0.06 --seed 7
unils-train data check "$out/corpus" --out "$out/data"
for stage in codec prior dialogue; do
  unils-train "$stage" --config "$config" --corpus "$out/corpus" --run-dir "$out/run" ${STEPS:+--steps "$STEPS"}
done
unils-train eval "$out/run/dialogue/best.pt" "$out/corpus" --out "$out/report" --shuffle-partner
unils-train export --config "$config" --run-dir "$out/run" -o "$out/bundle"
unils animate --model "$out/bundle" "$out/corpus/t000000a/self.wav" "$out/corpus/t000000a/other.wav" -o "$out/face.npz"
