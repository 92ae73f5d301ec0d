#!/usr/bin/env bash
# Builds everything for browsers: the WebAssembly module (release, wasm-opt), the npm package in
# web/package/dist and the page in web/page/dist. `scripts/web.sh serve` builds and serves the page.
#
# Needs Node.js 20 or newer, wasm-bindgen and Rust for wasm32 (`rustup target add wasm32-unknown-unknown`,
# or Debian's packages); what is missing it installs, or says how.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

need_node_modules
need_wasm_bindgen
wasm_cargo build --locked --profile wasm --package remask-web

# bindgen CRATE FOLDER: the module of a crate with its JavaScript, made smaller.
bindgen() {
    wasm-bindgen --target web --out-dir "$2" "target/wasm/wasm32-unknown-unknown/wasm/$1.wasm"
    web/node_modules/.bin/wasm-opt -Oz --enable-bulk-memory --enable-nontrapping-float-to-int \
        --enable-sign-ext --enable-mutable-globals --enable-reference-types --enable-multivalue \
        --strip-debug --strip-producers "$2/$1_bg.wasm" -o "$2/$1_bg.wasm"
}

package=web/package
bindgen remask_web $package/src/wasm
rm -rf $package/dist
web/node_modules/.bin/tsc -p $package
mkdir -p $package/dist/wasm
cp $package/src/wasm/*.{js,wasm,d.ts} $package/dist/wasm/
cp LICENSE-MIT LICENSE-APACHE $package/
wasm=$package/dist/wasm/remask_web_bg.wasm
printf 'wasm: %d bytes, %d with gzip\n' "$(stat -c %s $wasm)" "$(gzip -9c $wasm | wc -c)"

# The bundled model, served from the page's own origin.
model=web/page/public/models/tales-33m
mkdir -p $model
cp -u models/tales-33m/{config.json,tokenizer.json,model.safetensors} $model/
node $package/bin/manifest.mjs $model
web/node_modules/.bin/tsc -p web/page --noEmit
web/node_modules/.bin/vite build web/page
[[ ${1:-} != serve ]] || exec web/node_modules/.bin/vite preview web/page
