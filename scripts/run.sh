#!/usr/bin/env bash
# Builds remask and runs it: scripts/run.sh generate "What is the capital of France?"
# A GPU computes where there is one, the CPU otherwise.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec cargo run --release --quiet --package remask-cli -- "$@"
