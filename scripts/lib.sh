# Sourced by the scripts beside it and by .ci/run: what they need from the system.
# shellcheck shell=bash disable=SC2034

# A Vulkan loader, and a driver that computes on the CPU.
VULKAN_PACKAGES=(libvulkan1 mesa-vulkan-drivers)
# A Rust toolchain with the standard library's source, from which it can be compiled for wasm32.
WASM_PACKAGES=(rustc-web cargo-web rust-web-src)

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Those of the named Debian packages that are not installed, one a line.
missing_packages() {
    local package
    for package in "$@"; do
        [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || printf '%s\n' "$package"
    done
}

# need_packages WHY PACKAGE...: installs what is missing as root, and says what to run otherwise.
need_packages() {
    local why=$1 missing
    shift
    command -v apt-get >/dev/null ||
        die "$why; this script knows only Debian's packages for it ($*), please install your system's"
    mapfile -t missing < <(missing_packages "$@")
    ((${#missing[@]})) || return 0
    ((EUID == 0)) || die "$why; run: sudo apt-get update && sudo apt-get install -y ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # Standard output belongs to the program that is run afterwards.
    apt-get update -q >&2
    apt-get install -q -y --no-install-recommends "${missing[@]}" >&2
}

# Whether a Vulkan loader and at least one driver are there. Metal and DX12 come with their systems.
has_gpu_api() {
    [[ $(uname -s) == Linux ]] || return 0
    [[ $(PATH=$PATH:/sbin ldconfig -p) == *libvulkan.so.1* ]] || return 1
    [[ -n ${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-} ]] ||
        compgen -G '/usr/share/vulkan/icd.d/*.json' >/dev/null ||
        compgen -G '/usr/local/share/vulkan/icd.d/*.json' >/dev/null ||
        compgen -G '/etc/vulkan/icd.d/*.json' >/dev/null
}

# Installs cargo-nextest where it is missing; compiling it takes some minutes.
need_nextest() {
    cargo nextest --version >/dev/null 2>&1 && return
    echo 'cargo-nextest is missing: cargo install cargo-nextest --locked'
    cargo install cargo-nextest --locked
}

# Whether the active toolchain has the standard library for wasm32.
has_wasm_target() {
    local libdir
    libdir=$(rustc --print target-libdir --target wasm32-unknown-unknown 2>/dev/null) &&
        compgen -G "$libdir/libstd-*.rlib" >/dev/null
}

# Asks rustup for it, where there is one: not every machine reaches what rustup downloads from.
add_wasm_target() {
    has_wasm_target || { command -v rustup >/dev/null && rustup target add wasm32-unknown-unknown >&2; } || true
}

# wasm_cargo ARGS...: cargo for wasm32-unknown-unknown. After `rustup target add wasm32-unknown-unknown`
# this is plain cargo; without that target the system's own Rust (WASM_PACKAGES on Debian) compiles the
# standard library too.
wasm_cargo() {
    local sysroot lld
    # A folder of its own: two compilers in one would throw away each other's results.
    local -x CARGO_TARGET_DIR=target/wasm
    if has_wasm_target; then
        cargo "$@" --target wasm32-unknown-unknown
        return
    fi
    sysroot=$([[ ! -x /usr/bin/rustc ]] || /usr/bin/rustc --print sysroot)
    if [[ ! -x /usr/bin/cargo || ! -d $sysroot/lib/rustlib/src/rust/library ]]; then
        die "no standard library for wasm32; run either
  rustup target add wasm32-unknown-unknown
or, on Debian,
  sudo apt-get install -y ${WASM_PACKAGES[*]}"
    fi
    # Debian has no linker for wasm32; a rustup toolchain brings one.
    for lld in "$(rustc --print sysroot)"/lib/rustlib/*/bin/rust-lld; do
        [[ ! -x $lld ]] || local -x CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=$lld
    done
    # RUSTC_BOOTSTRAP lets a stable compiler take -Z options.
    RUSTC_BOOTSTRAP=1 RUSTC=/usr/bin/rustc \
        /usr/bin/cargo "$@" --target wasm32-unknown-unknown -Zbuild-std=std,panic_abort
}

# Installs the wasm-bindgen that fits Cargo.lock, where it is missing; compiling it takes some minutes.
need_wasm_bindgen() {
    local version
    version=$(sed -n '/^name = "wasm-bindgen"$/{n;s/version = "\(.*\)"/\1/p}' Cargo.lock)
    [[ $(wasm-bindgen --version 2>/dev/null) != "wasm-bindgen $version" ]] || return 0
    echo "wasm-bindgen $version is missing: cargo install wasm-bindgen-cli --version $version"
    cargo install wasm-bindgen-cli --version "$version"
}

# has_node VERSION: whether Node.js is that new.
has_node() {
    node -e "process.exit(Number(process.versions.node.split('.')[0]) < $1 ? 1 : 0)"
}

# need_node VERSION: installs Node.js where it is missing or older than that.
need_node() {
    command -v npm >/dev/null || need_packages 'Node.js is needed' nodejs npm
    has_node "$1" && return
    # Debian 12 has Node.js 18; the npm registry has newer ones.
    [[ -x target/node/node_modules/node/bin/node ]] ||
        npm install --prefix target/node --no-audit --no-fund --loglevel=error node@22
    PATH=$PWD/target/node/node_modules/node/bin:$PATH
    has_node "$1" || die "Node.js $(node --version) is too old; install version $1 or newer"
}

# need_python_venv FOLDER: a virtual environment there, and what one is made with.
need_python_venv() {
    [[ -x $1/bin/pip ]] && return
    python3 -c 'import ensurepip, venv' 2>/dev/null || need_packages 'clients for Python need an environment' python3 python3-venv
    python3 -m venv "$1"
}

# Installs the npm packages of web/ as its lock file names them, where they are not there yet.
need_node_modules() {
    need_node 20
    [[ web/node_modules/.package-lock.json -nt web/package-lock.json ]] ||
        npm ci --prefix web --no-audit --no-fund --loglevel=error
}
