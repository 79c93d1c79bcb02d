#!/bin/sh
# Fails if the checked-in stubs differ from what protos/ gives.
set -eu
cd "$(dirname "$0")/.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
sh tools/generate.sh "$fresh"
for package in v1 engine/v1 store/v1; do
    diff -r -x __init__.py -x __pycache__ "$fresh/tokenrelay/$package" "tokenrelay/$package" || {
        echo "tokenrelay/$package is not what protos/ gives; run: make generate" >&2
        exit 1
    }
done
echo "The stubs are what protos/ gives."
