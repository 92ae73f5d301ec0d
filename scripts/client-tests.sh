#!/usr/bin/env bash
# Runs the clients that people use against the built server, on loopback: OpenAI's for Python and Node, LangChain and
# Vercel's AI SDK, in the versions that tests/clients names. They are installed below target/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

need_python_venv target/clients/python
need_node 22
target/clients/python/bin/pip install --quiet --disable-pip-version-check --requirement tests/clients/python/requirements.txt
# Node.js looks for packages beside and above the tests alone.
mkdir -p target/clients/node
cp tests/clients/node/* target/clients/node/
[[ target/clients/node/node_modules/.package-lock.json -nt tests/clients/node/package-lock.json ]] ||
    npm ci --prefix target/clients/node --no-audit --no-fund --loglevel=error

cargo build --locked --workspace --features remask-cli/train --bins
export REMASK_BINARY=$PWD/target/debug/remask REMASK_CACHE_DIR=$PWD/target/clients/cache
# A proxy has no part in this.
export NO_PROXY=127.0.0.1 no_proxy=127.0.0.1
target/clients/python/bin/python -m unittest discover --start-directory tests/clients/python "$@"
node --test "$PWD"/target/clients/node/*.test.mjs
