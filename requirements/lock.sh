#!/bin/sh
# Resolves pyproject.toml, build.in and bootstrap.in into the three locks, keeping every pin that still fits.
# --check writes nothing and fails when a lock is out of step. Arguments after that go to uv (--upgrade).
set -eu
cd "$(dirname "$0")/.."

folder=requirements
check=""
if [ "${1:-}" = --check ]; then
    shift
    check=yes
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    cp requirements/*.txt "$folder"
fi

resolve() {
    target=$1
    shift
    .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-header --output-file "$folder/$target" "$@"
    [ -z "$check" ] || diff -u "requirements/$target" "$folder/$target" || {
        echo "llava-av: requirements/$target is out of step; run: make lock" >&2
        exit 1
    }
}

resolve bootstrap.txt requirements/bootstrap.in --no-annotate "$@"
resolve build.txt requirements/build.in --no-annotate "$@"
resolve lock.txt pyproject.toml --extra dev "$@"
