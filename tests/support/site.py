"""The site that a page comes from: its files, and the contract as a page reads it, on an origin of its own."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.rpc import error_details_pb2

from deploy.local.settings import ROOT
from tokenrelay.v1 import generation_service_pb2

CONTRACT = "/tests/javascript/contract.binpb"
PAGE = "/tests/javascript/page.html"


def contract() -> bytes:
    """Returns our services and google.rpc's details, each file after those that it imports."""
    files: dict[str, FileDescriptor] = {}

    def add(file: FileDescriptor) -> None:
        for needed in file.dependencies:
            add(needed)
        files.setdefault(file.name, file)

    add(generation_service_pb2.DESCRIPTOR)
    add(error_details_pb2.DESCRIPTOR)
    whole = FileDescriptorSet()
    for file in files.values():
        file.CopyToProto(whole.file.add())
    return whole.SerializeToString()


class _Handler(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path != CONTRACT:
            super().do_GET()
            return
        body = contract()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class names it
        """Logs nothing."""


@contextmanager
def served() -> Iterator[str]:
    """Serves the repository's files on loopback; yields the origin."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(ROOT))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
