#!/usr/bin/env bash
# Checks that the crates a browser runs compile for wasm32-unknown-unknown.
#
# After `rustup target add wasm32-unknown-unknown` this is a plain `cargo check`. Without that target
# the system's own Rust (Debian: rustc-web cargo-web rust-web-src) compiles the standard library too.
# Arguments go to cargo check.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

# A folder of its own: two compilers in one would throw away each other's results.
export CARGO_TARGET_DIR=target/wasm
check=(check --locked --target wasm32-unknown-unknown --package remask-core --package remask-wgpu "$@")
# Nothing that is compiled here runs for long: optimising the dependencies would double the time.
check+=(--config 'profile.dev.package."*".opt-level=0')

if has_wasm_target; then
    echo "wasm32 with the active toolchain, $(rustc --version)"
    exec cargo "${check[@]}"
fi

sysroot=$([[ ! -x /usr/bin/rustc ]] || /usr/bin/rustc --print sysroot)
if [[ ! -x /usr/bin/cargo || ! -d $sysroot/lib/rustlib/src/rust/library ]]; then
    die "no standard library for wasm32; run either
  rustup target add wasm32-unknown-unknown
or, on Debian,
  sudo apt-get install -y ${WASM_PACKAGES[*]}"
fi
# Debian has no linker for wasm32; a rustup toolchain brings one. cargo check links nothing, but other
# commands for this target would.
for lld in "$(rustc --print sysroot)"/lib/rustlib/*/bin/rust-lld; do
    [[ ! -x $lld ]] || export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=$lld
done
echo "wasm32 with $(/usr/bin/rustc --version), standard library from source"
# RUSTC_BOOTSTRAP lets a stable compiler take -Z options.
export RUSTC_BOOTSTRAP=1 RUSTC=/usr/bin/rustc
exec /usr/bin/cargo "${check[@]}" -Zbuild-std=std,panic_abort
