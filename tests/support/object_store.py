"""An S3 server in a process of its own, and a proxy in front of it that loses or changes what goes through.

moto decides a conditional put in two steps, so its server decides one request at a time, as S3 itself would look; it
reads and answers them side by side, because a client may be cut off in the middle. It closes each connection after one
answer, so the proxy sees one request for each connection.
"""

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_SERVER = """
import io, os, sys, threading
os.environ["MOTO_PORT"] = sys.argv[1]
from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server
application, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()

def one_at_a_time(environ, start_response):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(body)
    with lock:
        return list(application(environ, start_response))

server = make_server(
    sys.argv[3], int(sys.argv[1]), one_at_a_time, fd=int(sys.argv[2]), request_handler=MotoRequestHandler, threaded=True
)
print("ready", flush=True)
server.serve_forever()
"""
_EXPECT = re.compile(rb"(?i)\r\nexpect: 100-continue")
_CONDITIONAL = re.compile(rb"(?is)PUT .*?\r\nif-none-match: \*\r\n")
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def server(address: str = "127.0.0.1") -> Iterator[int]:
    """The port on which S3 is served."""
    with socket.socket() as listener:
        listener.bind((address, 0))
        listener.listen(128)
        port = listener.getsockname()[1]
        command = [sys.executable, "-c", _SERVER, str(port), str(listener.fileno()), address]
        process = subprocess.Popen(
            command, pass_fds=[listener.fileno()], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield port
        finally:
            process.kill()


class Proxy:
    """Forwards each request and its answer. `request` may change or swallow one, `answer` the other; None swallows."""

    def __init__(self, upstream: int) -> None:
        self.request: Callable[[bytes], bytes | None] = lambda data: data
        self.answer: Callable[[bytes, bytes], bytes | None] = lambda request, answer: answer
        self.lost = 0
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def lose_answers(self, count: int) -> None:
        """Lose the next answers to conditional puts, accepted ones and refused ones; `lost` counts them."""

        def answer(request: bytes, answer: bytes) -> bytes | None:
            if self.lost >= count or not _CONDITIONAL.match(request):
                return answer
            self.lost += 1
            return None

        self.answer = answer

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            request = _whole(client)
            if not request.strip():
                return
            forwarded = self.request(request)
            answer = b""
            if forwarded is not None:
                with socket.create_connection(("127.0.0.1", self._upstream)) as upstream:
                    upstream.sendall(forwarded)
                    while data := upstream.recv(1 << 16):
                        answer += data
            shown = self.answer(request, answer)
            if shown is not None:
                client.sendall(shown)


def _whole(client: socket.socket) -> bytes:
    """One request; a client that asks first whether to send its body is told to."""
    with client.makefile("rb") as lines:
        head = b""
        for line in lines:
            if line == b"\r\n":
                break
            head += line
        if _EXPECT.search(head):
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        return _EXPECT.sub(b"", head) + b"\r\n" + lines.read(int(length[1]) if length else 0)


def environment(port: int, address: str = "127.0.0.1") -> dict[str, str]:
    """What a process needs to reach the server, or the proxy, at a port."""
    return {**os.environ, **CREDENTIALS, "AWS_ENDPOINT_URL": f"http://{address}:{port}"}
