#!/bin/sh
# Resolves pyproject.toml, build.in and bootstrap.in into the three locks of .venv, keeping all pins that still
# fit. Then resolves the locks of the images, for Linux only and with the versions of lock.txt.
# --check writes nothing and fails if a lock is outdated. Other arguments go to uv (--upgrade).
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
    .venv/bin/uv pip compile --quiet --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-header --output-file "$folder/$target" "$@"
    [ -z "$check" ] || diff -u "requirements/$target" "$folder/$target" || {
        echo "llava-av: requirements/$target is outdated; run: make lock" >&2
        exit 1
    }
}

resolve_image() {
    resolve "$@" --constraint "$folder/lock.txt" --python-platform x86_64-manylinux_2_28 --no-annotate
}

resolve bootstrap.txt requirements/bootstrap.in --universal --no-annotate "$@"
resolve build.txt requirements/build.in --universal --no-annotate "$@"
resolve lock.txt pyproject.toml --universal --extra dev "$@"
resolve_image train.txt pyproject.toml --extra serve "$@"
resolve_image pipeline.txt pyproject.toml --extra pipeline "$@"
resolve_image mlflow.txt requirements/mlflow.in "$@"
