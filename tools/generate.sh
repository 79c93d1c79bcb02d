#!/bin/sh
# Generates the Python stubs of protos/ into the folder given, by default the repository's root.
#
# grpcio-tools is older than the runtime on purpose: stubs work with every runtime from their own version on,
# so that clients need not be as new as the servers. It runs in an environment of its own, since it wants an older protobuf.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
out=$(cd "${1:-$root}" && pwd)
cd "$root/protos"
"$root/.venv/bin/uv" run --quiet --no-project --isolated --python "$root/.venv/bin/python" \
    --with grpcio-tools==1.74.0 --with mypy-protobuf==5.1.0 --with 'setuptools<81' \
    python -m grpc_tools.protoc -I . -I "$root/.venv/share/protos" \
    --python_out="$out" --grpc_python_out="$out" --mypy_out=quiet:"$out" --mypy_grpc_out=quiet:"$out" \
    $(find tokenrelay -name '*.proto' | sort)
# Packages without a service need no gRPC stubs.
find "$out/tokenrelay/v1" "$out/tokenrelay/engine" "$out/tokenrelay/store" -name '*_pb2_grpc.py' | while read -r stub; do
    grep -q 'class .*Servicer' "$stub" || rm -f "$stub" "${stub}i"
done
