#!/usr/bin/env bash
# Tests the engine, the package, the page, and the pages of `remask serve` in a real browser: Debian's Chromium on
# SwiftShader, a software adapter. `scripts/web-test.sh --all` runs every golden case and every prompt, which takes
# much longer.
# CHROMIUM names another browser of that kind.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

[[ -x ${CHROMIUM:-/usr/bin/chromium} ]] || need_packages 'the browser tests run Chromium' chromium
need_node_modules
scripts/web.sh
wasm_cargo build --locked --profile wasm --package remask-testkit-web
wasm-bindgen --target web --out-dir web/tests/out \
    target/wasm/wasm32-unknown-unknown/wasm/remask_testkit_web.wasm
# With the features of scripts/test.sh, so that nothing is compiled twice.
cargo build --locked --workspace --features remask-cli/train --bin remask
[[ ${1:-} != --all ]] || export REMASK_WEB_TESTS=all
cd web
exec node --test tests/playground.test.mjs tests/browser.test.mjs
