"""Real object stores on loopback, and a proxy before one that counts and spoils requests."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gmm_dask.storage.files.stores import forget_clients
from gmm_dask.storage.input.location import _s3
from tests.pipelines.services import free_port
from tests.waiting import until

KEY, SECRET = "the-id-of-a-key", "a-secret-that-nobody-repeats"
#: Who may write, but not make buckets: without that, SeaweedFS makes those that are missing.
WRITER, WRITER_SECRET = "the-id-of-a-writer", "a-writers-secret-that-nobody-repeats"


def credentials(endpoint: str, key: str = KEY, secret: str = SECRET) -> dict[str, str]:
    """Return the environment of a process that may use a store."""
    return {
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextmanager
def environment(**variables: str | None) -> Iterator[None]:
    """Set variables of the environment, or remove those that are None, for new clients."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in variables.items():
            if value is None:
                patched.delenv(name, raising=False)
            else:
                patched.setenv(name, value)
        forget_clients()
        _s3.cache_clear()
        yield
    forget_clients()
    _s3.cache_clear()


@contextmanager
def seaweed(folder: Path) -> Iterator[str]:
    """Run SeaweedFS, a real S3 server; yields its endpoint, with a bucket named bucket."""
    identities = [
        (KEY, SECRET, ["Admin", "Read", "Write", "List", "Tagging"]),
        (WRITER, WRITER_SECRET, ["Read:bucket", "Write:bucket", "List:bucket"]),
    ]
    config = folder / "s3.json"
    config.write_text(
        json.dumps(
            {
                "identities": [
                    {
                        "name": key,
                        "credentials": [{"accessKey": key, "secretKey": secret}],
                        "actions": actions,
                    }
                    for key, secret, actions in identities
                ]
            }
        )
    )
    ports = [free_port() for _ in range(8)]
    roles = ["s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port",
             "volume.port.grpc", "filer.port", "filer.port.grpc"]  # fmt: skip
    command = [
        str(Path(sys.executable).with_name("weed")), "server", "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1", f"-dir={folder}", "-s3", f"-s3.config={config}", "-volume.max=20",
        "-master.volumeSizeLimitMB=64", "-s3.port.iceberg=0", "-s3.port.lance=0",
        *(f"-{role}={port}" for role, port in zip(roles, ports, strict=True)),
    ]  # fmt: skip
    log = folder / "weed.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=folder)
    endpoint = f"http://127.0.0.1:{ports[0]}"
    try:
        until(lambda: _makes_bucket(endpoint), f"no answer: {log.read_text()[-2000:]}", 90, 0.2)
        yield endpoint
    finally:
        process.kill()
        process.wait()


@contextmanager
def moto(folder: Path) -> Iterator[str]:
    """Run moto, which knows buckets and redirects as AWS does; yields its endpoint."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", f"-p{port}"]
    log = folder / "moto.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=folder)
    endpoint = f"http://127.0.0.1:{port}"
    try:
        until(lambda: _makes_bucket(endpoint), f"no answer: {log.read_text()[-2000:]}", 60, 0.1)
        yield endpoint
    finally:
        process.kill()
        process.wait()


def _makes_bucket(endpoint: str) -> bool:
    from pyarrow import fs

    where, _, port = endpoint.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(where, int(port), timeout=5)
    try:
        connection.request("GET", "/")
        connection.getresponse().read()
        store = fs.S3FileSystem(
            access_key=KEY,
            secret_key=SECRET,
            endpoint_override=endpoint,
            region="us-east-1",
            allow_bucket_creation=True,
        )
        store.create_dir("bucket")
        with store.open_output_stream("bucket/ready") as file:
            file.write(b"yes")
        store.delete_file("bucket/ready")
    except OSError:
        return False
    finally:
        connection.close()
    return True


#: What becomes of a request: pass it on, lose its answer, or answer it with status and body.
Fate = Callable[[int, str, str], str | tuple[int, str]]
PASS, LOSE = "pass", "lose"


class Proxy:
    """A server before a store: it numbers the requests from 1 and asks what becomes of each.

    Attributes
    ----------
    endpoint
        Its own address.
    requests
        Method and path of each request so far.
    fate
        Asked before a request is passed on.
    after
        Called when the store has done a request, before its answer is passed on.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream.removeprefix("http://")
        self.requests: list[tuple[str, str]] = []
        self.fate: Fate = lambda number, method, path: PASS
        self.after: Callable[[int], None] = lambda number: None
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: object) -> None:
                pass

            def handle_any(self) -> None:
                proxy._handle(self)

        for method in ("GET", "PUT", "POST", "HEAD", "DELETE"):
            setattr(Handler, f"do_{method}", Handler.handle_any)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}
        )

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        with self._lock:
            self.requests.append((request.command, request.path))
            number = len(self.requests)
        fate = self.fate(number, request.command, request.path)
        if isinstance(fate, tuple):
            _answer(request, fate[0], fate[1].encode(), {})
            return
        host, _, port = self.upstream.partition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        connection.putrequest(
            request.command, request.path, skip_host=True, skip_accept_encoding=True
        )
        for name, value in request.headers.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        content, headers = answer.read(), dict(answer.headers.items())
        connection.close()
        self.after(number)
        if fate == LOSE:
            request.close_connection = True
            return
        _answer(request, answer.status, content, headers)

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *arguments: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _answer(
    request: BaseHTTPRequestHandler, status: int, content: bytes, headers: dict[str, str]
) -> None:
    kept = {name: value for name, value in headers.items() if name.lower() not in _HOP}
    try:
        request.send_response(status)
        for name, value in kept.items():
            request.send_header(name, value)
        length = headers.get("Content-Length") if request.command == "HEAD" else None
        request.send_header("Content-Length", length or str(len(content)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(content)
    except OSError:  # the client was killed
        request.close_connection = True


_HOP = {"connection", "transfer-encoding", "content-length", "server", "date", "keep-alive"}
