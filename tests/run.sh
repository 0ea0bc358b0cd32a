#!/usr/bin/env bash
# Installs what the tests need on a bare Debian machine with Rust, then runs all of them.
# Everything it downloads stays below target/ and tests/e2e/node/node_modules/; when all is there it downloads nothing.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PATH:/usr/sbin:/sbin"
export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-auto}"

heading() { printf '\n== %s\n' "$*"; }

as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }

# Prints the Debian packages of the tools that are missing. What is there is used, wherever it came from.
missing_packages() {
    command -v cc >/dev/null || echo build-essential
    command -v cmake >/dev/null || echo cmake
    command -v chromium >/dev/null || echo chromium
    # As neighbours: an access service, and a proxy in front. They are started by the tests, on ports of their own.
    command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || echo nginx-light
    command -v haproxy >/dev/null || [ -x /usr/sbin/haproxy ] || echo haproxy
    # As TLS clients, and to make certificates.
    command -v openssl >/dev/null || echo openssl
    command -v curl >/dev/null || echo curl
    command -v taskset >/dev/null || echo util-linux
    command -v systemd-analyze >/dev/null || echo systemd
    command -v ip >/dev/null || [ -x /usr/sbin/ip ] || echo iproute2
    # A virtual environment needs pip's wheel, which Debian's python3 lacks without this package.
    python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
    command -v node >/dev/null || echo nodejs
    command -v npm >/dev/null || echo npm
}

install_packages() {
    local packages
    mapfile -t packages < <(missing_packages)
    if [ "${#packages[@]}" -gt 0 ]; then
        heading "Installing ${packages[*]}"
        as_root apt-get update -qq
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}"
    fi
}

# Runs a command that installs what `file` lists, unless `stamp` says it was done for this very content.
once_for() {
    local stamp=$1 file=$2
    shift 2
    if ! cmp -s "$file" "$stamp"; then
        "$@"
        cp "$file" "$stamp"
    fi
}

install_python() {
    heading "Installing the Python packages of the end-to-end tests"
    python3 -m venv --clear target/e2e-venv
    target/e2e-venv/bin/pip install --quiet --disable-pip-version-check -r tests/e2e/requirements.txt
}

install_node() {
    heading "Installing the Node packages of the end-to-end tests"
    (cd tests/e2e/node && npm ci --omit=dev --silent)
}

install_packages
mkdir -p target
once_for target/e2e-venv/requirements.txt tests/e2e/requirements.txt install_python
once_for tests/e2e/node/node_modules/.lock.json tests/e2e/node/package-lock.json install_node

heading "cargo fmt --check"
cargo fmt --check

heading "cargo clippy"
cargo clippy --all-targets --quiet -- -D warnings

heading "cargo doc"
RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --quiet

heading "cargo test"
cargo test --quiet

heading "cargo build"
cargo build --quiet --bin wsgate --example tungstenite_client

heading "End-to-end tests"
# 2,000 clients in each crowd that a drain is about; without this 200.
export WSGATE_CROWD="${WSGATE_CROWD:-2000}"
WSGATE_BIN=target/debug/wsgate target/e2e-venv/bin/python -m pytest --quiet -p no:cacheprovider tests/e2e

# What happens on a WebSocket once more over HTTP/2: of the clients, of the servers, of both. See tests/e2e/rig/over_http2.py.
# One test says something else there: how much of a stream has arrived is not known, so a window that stays closed for `write_timeout`
# is the end.
over_http2() {
    local clients=$1 servers=$2
    shift 2
    heading "End-to-end tests, with the clients on $clients and the servers on $servers"
    WSGATE_E2E_CLIENTS=$clients WSGATE_E2E_SERVERS=$servers WSGATE_BIN=target/debug/wsgate \
        target/e2e-venv/bin/python -m pytest --quiet -p no:cacheprovider "${@/#/tests/e2e/}" \
        --deselect test_limits.py::test_a_reader_that_is_only_slow_stays
}
over_http2 http2 http1 test_{passing,violations,closing,compression,connections,backpressure,limits,liveness}.py
over_http2 http1 http2 test_{passing,violations,closing,connections,liveness}.py
over_http2 http2 http2 test_{passing,violations,closing,connections,liveness}.py

heading "The load of the comparison, without the other proxies"
python3 benches/compare/run.py --quick > /dev/null

if [ -f tests/fuzz/run.sh ]; then
    heading "Fuzzing"
    bash tests/fuzz/run.sh
fi

heading "All tests passed"
