"""A proxy in front of an S3 server whose answers are cut short or out of date."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from urllib.parse import urlsplit

from tests.cluster.faulty_proxy import _HOP, _Handler

Answer = tuple[int, list[tuple[str, str]], bytes]


@contextmanager
def lying_proxy(target: str, share: float, seed: int) -> Iterator[str]:
    """Pass requests on to `target`, but spoil a share of the answers to GET; gives its URL.

    A listing is the one that the same question got before, as of a store that is consistent
    eventually. The content of an object is cut: with the length of the whole one, as where the
    connection breaks, or with its own, as by a bad cache.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Liar)
    server.target, server.share, server.random = urlsplit(target).netloc, share, random.Random(seed)
    server.listings = {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Liar(_Handler):
    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, headers, content = self._ask(body)
        length = dict(headers).get("Content-Length") if self.command == "HEAD" else len(content)
        lies = self.command == "GET" and self.server.random.random() < self.server.share
        if lies and "list-type" in self.path:
            content = self.server.listings.get(self.path, content)
            length = len(content)
        elif lies and content:
            content = content[: self.server.random.randrange(len(content))]
            length = self.server.random.choice([length, len(content)])
            self.close_connection = True
        if "list-type" in self.path:
            self.server.listings.setdefault(self.path, content)
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in _HOP and name.lower() != "content-length":
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = pass_on  # noqa: N815
