"""An S3 server on loopback (moto's), and a proxy before it that loses replies and counts requests.

moto honours `If-None-Match: *`, but looks and writes in two steps: what it shows is the meaning of
a conditional write, not that one of two at the same instant loses.
"""

from __future__ import annotations

import http.client
import itertools
import logging
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

SECRET = "kept/by+the=user/0123456789abcdef"
_buckets = itertools.count()


@dataclass(frozen=True)
class Request:
    """A request as the proxy sees it; `number` counts from 0."""

    number: int
    method: str
    path: str


@dataclass
class Proxy:
    """What stands between us and the server.

    `lose` says of a request whether its reply is dropped after the server has done it, `refuse`
    whether it is answered with this status and not done at all.
    """

    endpoint: str = ""
    requests: list[Request] = field(default_factory=list)
    lose: Callable[[Request], bool] = lambda request: False
    refuse: Callable[[Request], int] = lambda request: 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def seen(self, method: str, path: str) -> Request:
        with self.lock:
            request = Request(len(self.requests), method, path)
            self.requests.append(request)
        return request

    def count(self, *methods: str) -> int:
        return sum(request.method in methods or not methods for request in self.requests)


@contextmanager
def proxied(server: str) -> Iterator[Proxy]:
    """Run a proxy before a server."""
    proxy = Proxy()
    host = server.removeprefix("http://")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            request = proxy.seen(self.command, self.path)
            status = proxy.refuse(request)
            headers: list[tuple[str, str]] = []
            data = b""
            if not status:
                upstream = http.client.HTTPConnection(host, timeout=30)
                upstream.request(self.command, self.path, body, dict(self.headers))
                reply = upstream.getresponse()
                status, data, headers = reply.status, reply.read(), reply.getheaders()
                upstream.close()
                if proxy.lose(request):
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
            self.send_response_only(status)
            length = str(len(data))
            for name, value in headers:
                if name.lower() == "content-length" and self.command == "HEAD":
                    length = value
                elif name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = answer  # noqa: N815

        def log_request(self, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # A client that hangs up is what some of the tests are about.

    listener = Server(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
    thread.start()
    proxy.endpoint = f"http://127.0.0.1:{listener.server_port}"
    try:
        yield proxy
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of a server on loopback; anybody may do anything there."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return `s3://NAME` of a new bucket, the environment set as for a user of it."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_server,
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN", "AWS_SKIP_SIGNATURE"):
        monkeypatch.delenv(name, raising=False)
    name = f"bucket-{next(_buckets)}"
    with urllib.request.urlopen(urllib.request.Request(f"{s3_server}/{name}", method="PUT")):
        pass
    return f"s3://{name}"


@pytest.fixture
def proxy(bucket: str, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy through which the bucket is reached."""
    with proxied(s3_server) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy
