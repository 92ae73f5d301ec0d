#!/usr/bin/env bash
# Runs every test of the workspace. Needs a Vulkan driver (a software one will do) and cargo-nextest;
# where they are missing it installs them, or says how.
#
# Arguments go to cargo nextest run and choose tests (scripts/test.sh -p remask-core); documentation
# tests run only where there are none.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

has_gpu_api || need_packages 'no Vulkan driver was found and the tests run real kernels' "${VULKAN_PACKAGES[@]}"
need_nextest
# Training is no part of a plain build, but it is tested.
features=(--features remask-cli/train)
cargo nextest run --workspace "${features[@]}" "$@"
(($#)) || cargo test --doc --workspace "${features[@]}"
