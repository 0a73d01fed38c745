"""An HTTP proxy in front of one server that spoils some of the requests."""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_HOP = {"connection", "keep-alive", "transfer-encoding", "expect"}


@contextmanager
def faulty_proxy(
    target: str, share: float, stall: float, seed: int
) -> Iterator[tuple[str, Counter]]:
    """Pass requests on to `target`, but spoil a share of them.

    Each in turn, at random: answer 503; pass the request on but break the connection in place of
    its answer; hold it for `stall` seconds, then break the connection. The first three requests
    show one of each.

    Returns:
        The proxy's URL, and how often each fault was shown.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.target, server.stall = urlsplit(target).netloc, stall
    server.share, server.random = share, random.Random(seed)
    server.shown, server.first, server.spoilt = Counter(), ["503", "reset", "stall"], set()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.shown
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self._fault()
        if fault == "503":
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == "stall":
            time.sleep(self.server.stall)
        else:
            status, headers, answer = self._ask(body)
        if fault:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in _HOP and name.lower() != "content-length":
                self.send_header(name, value)
        length = dict(headers).get("Content-Length") if self.command == "HEAD" else len(answer)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = pass_on  # noqa: N815

    def _fault(self) -> str:
        server = self.server
        fresh = "pairs-" in self.path and self.command == "PUT" and self.path not in server.spoilt
        if server.first and fresh:
            server.spoilt.add(self.path)
            fault = server.first.pop(0)
        elif server.random.random() < server.share:
            fault = server.random.choice(["503", "reset", "stall"])
        else:
            fault = ""
        server.shown[f"{fault or 'passed on'} {self.command}"] += 1
        return fault

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = HTTPConnection(self.server.target, timeout=60)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        result = answer.status, answer.getheaders(), answer.read()
        connection.close()
        return result

    def log_message(self, *_: object) -> None:
        pass
