# Everyday commands. `just` alone lists them.

set positional-arguments

_list:
    @just --list

# Build the command line, optimised: target/release/remask
build:
    cargo build --release

# Run the command line, optimised: just run generate "Once upon a time" --raw
run *args:
    scripts/run.sh "$@"

# Run every test, or those that the arguments choose: just test -p remask-core
test *args:
    scripts/test.sh "$@"

# Check format, lints and documentation
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --features remask-cli/train -- -D warnings
    RUSTDOCFLAGS='-D warnings' cargo doc --workspace --features remask-cli/train --no-deps

# Check that the crates a browser runs compile for wasm32
wasm:
    scripts/wasm-check.sh

# Build the npm package and the page: web/package/dist, web/page/dist. `just web serve` serves the page
web *args:
    scripts/web.sh "$@"

# Run the browser tests; --all for every golden and prompt
web-test *args:
    scripts/web-test.sh "$@"

# Check this machine's adapter against the reference implementations: just verify --adapter llvmpipe
verify *args:
    scripts/run.sh verify tests/golden/*/ "$@"

# Time the kernels over their case tables; arguments choose: just kernels gemv
kernels *args:
    cargo bench -p remask-benches -- "$@"

# Time passes beside PyTorch's and Burn's: just compare --shape llada-8b --rows 32,64
compare *args: build
    python3 benches/compare/compare.py "$@"

# Everything that must pass before a change is merged
ci:
    .ci/run
