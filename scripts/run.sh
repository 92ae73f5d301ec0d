#!/usr/bin/env bash
# Builds remask and runs it: scripts/run.sh generate "What is the capital of France?"
# Where the machine has no Vulkan driver at all it installs a software one, or says how.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

has_gpu_api || need_packages 'no Vulkan driver was found' "${VULKAN_PACKAGES[@]}"
exec cargo run --release --quiet --package remask-cli -- "$@"
