#!/bin/sh
# Resolves requirements/*.in into the pinned, hashed requirements/*.txt that tools/install.py installs.
set -eu
cd "$(dirname "$0")/../requirements"
compile() {
    ../.venv/bin/uv pip compile --quiet --no-header --no-annotate --generate-hashes \
        --python-version 3.11 --python-platform x86_64-manylinux_2_31 "$@"
}
find_links=$(../.venv/bin/python ../tools/install.py --print-find-links)
compile cpu.in --override overrides.in --no-emit-package torch ${find_links:+--find-links "$find_links"} -o cpu.txt
compile gpu.in -o gpu.txt
compile core.in -c cpu.txt -o core.txt
compile simulated.in -c cpu.txt -o simulated.txt
compile dev.in -c cpu.txt -o dev.txt
compile bench.in -c cpu.txt -o bench.txt
