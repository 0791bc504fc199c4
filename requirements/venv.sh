#!/bin/sh
# Creates or updates .venv with exactly the packages of requirements/lock.txt and this project, editable.
# Every download is verified against a hash. If .venv is up to date, the script needs no network.
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "llava-av: $1" >&2
    exit 1
}

suitable() {
    "$1" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1
}

case "$(uname -sm)" in
"Linux x86_64" | "Darwin arm64") ;;
*) fail "unsupported platform $(uname -sm): the lock covers Linux x86-64 and macOS arm64; see docs/dependencies.md" ;;
esac

if ! suitable .venv/bin/python || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    base=""
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if suitable "$candidate"; then
            base=$candidate
            break
        fi
    done
    [ -n "$base" ] || fail "'${PYTHON:-python3}' is not Python 3.11, 3.12 or 3.13 with the venv module; install one (on Debian: \
apt install python3 python3-venv), or name one: make PYTHON=/path/to/python3"
    echo "creating .venv with $("$base" --version)"
    rm -rf .venv
    "$base" -m venv .venv
fi

export VIRTUAL_ENV="$PWD/.venv" PIP_DISABLE_PIP_VERSION_CHECK=1
wanted=$(cat requirements/bootstrap.txt requirements/build.txt requirements/lock.txt | .venv/bin/python -c \
    'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
if [ "$(cat .venv/made-from 2>/dev/null)" != "$wanted" ]; then
    .venv/bin/python -m pip install --quiet --require-hashes -r requirements/bootstrap.txt ||
        fail "could not install uv (requirements/bootstrap.txt); check that the package index is reachable"
    .venv/bin/uv pip sync --compile-bytecode --require-hashes --build-constraints requirements/build.txt requirements/lock.txt
fi
.venv/bin/uv pip install --quiet --offline --no-deps --no-build-isolation \
    --config-setting editable_mode=compat --editable .
echo "$wanted" >.venv/made-from
