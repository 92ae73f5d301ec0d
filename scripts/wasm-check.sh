#!/usr/bin/env bash
# Checks that the crates a browser runs compile for wasm32-unknown-unknown.
#
# After `rustup target add wasm32-unknown-unknown` this is a plain `cargo check`. Without that target
# the system's own Rust (Debian: rustc-web cargo-web rust-web-src) compiles the standard library too.
# Arguments go to cargo check.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

# Nothing that is compiled here runs for long: optimising the dependencies would double the time.
wasm_cargo check --locked --package remask-core --package remask-wgpu --package remask-web \
    --config 'profile.dev.package."*".opt-level=0' "$@"
