"""A page for the browser where student and teacher stand side by side, served to this machine."""

import base64
import hashlib
import ipaddress
import json
import socket
import sys
import threading
from functools import cache, partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.config import Config
from pipeline.data.fetch import fetch_inputs
from pipeline.gallery.studio import MOST, Studio
from pipeline.models.loading import load_teacher
from pipeline.models.students import check_student, load_student
from pipeline.utils.errors import UserError

CONNECTIONS = 128
"""Answered at once; an idle one ends after `Handler.timeout` seconds."""


def gallery(config: Config) -> None:
    """Serve a page where one chooses class or prompt and walks through noise.

    Raises:
        UserError: If a network cannot be loaded, they do not fit each other, or the address is not
            to be had.
    """
    local = fetch_inputs(config, "teacher", "evaluate")
    guidance = local.distill.student.embedded_guidance
    student = load_student(local.evaluate.student, local.teacher, guidance)
    teacher = load_teacher(local.teacher)
    check_student(student, teacher, config.evaluate.student)
    studio = Studio(student, teacher, config.pairs, config.seed)
    server = new_server(studio, config.sample.host, config.sample.port)
    host, port = server.server_address[:2]
    shown = f"[{host!s}]" if ":" in str(host) else str(host)
    print(f"sample   open http://{shown}:{port} in a browser; Ctrl-C ends it", flush=True)
    address = _address(str(host))
    if address is None or not address.is_loopback:
        print("sample   whoever reaches this address can use it: there is no password", flush=True)
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("sample   ended")


def new_server(studio: Studio, host: str, port: int) -> ThreadingHTTPServer:
    """A server that listens already; `serve_forever` answers.

    Args:
        studio: What makes the images.
        host: Its address or name.
        port: 0 for any that is free.

    Raises:
        UserError: If the address is not to be had.
    """

    class Server(_Server):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    try:
        return Server((host, port), partial(Handler, studio=studio, name=host))
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"sample.host, sample.port: cannot listen at {host}:{port}: {error}; choose another"
        ) from error


class _Server(ThreadingHTTPServer):
    """A thread for each connection, up to a number; the others wait until one ends."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, *args: Any) -> None:
        self._room = threading.Semaphore(CONNECTIONS)
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._room.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell of our own errors; not of a browser that asked and went."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Answers for the page and for images.

    A page of another site cannot use it: a name that such a site has the browser resolve to this
    machine is refused (DNS rebinding), and so is a picture that it asks for.
    """

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "ray-dmd", ""
    timeout = 15

    def __init__(self, *args: Any, studio: Studio, name: str) -> None:
        self.studio, self.name = studio, name
        super().__init__(*args)

    def do_GET(self) -> None:  # noqa: N802
        """The page at /, images at /image."""
        try:
            address = urlsplit(self.path)
        except ValueError:
            self._refuse(HTTPStatus.BAD_REQUEST, "that is no address")
            return
        if not known_host(self.headers.get("Host", ""), self.name):
            text = "open it under the address it prints, or set sample.host to this name"
            self._refuse(HTTPStatus.FORBIDDEN, text)
        elif address.path == "/":
            page, policy = page_of(self.studio)
            self._answer(
                page.encode(), "text/html; charset=utf-8", {"Content-Security-Policy": policy}
            )
        elif address.path != "/image":
            self._refuse(HTTPStatus.NOT_FOUND, "there are / and /image")
        elif self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            self._refuse(HTTPStatus.FORBIDDEN, "asked for by another site")
        else:
            self._image(address.query)

    def _image(self, query: str) -> None:
        try:
            wish = self.studio.wish(dict(parse_qsl(query, keep_blank_values=True)))
        except (UserError, ValueError) as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
            return
        try:
            made = self.studio.make(wish)
        except Exception as error:
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}: {error}")
            raise
        self._answer(
            made.file, made.kind, {"Server-Timing": f"network;dur={made.milliseconds:.2f}"}
        )

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        self._answer(json.dumps({"error": text}).encode(), "application/json", {}, status)

    def _answer(
        self,
        body: bytes,
        kind: str,
        more: dict[str, str],
        status: HTTPStatus = HTTPStatus.OK,
    ) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(body)), **more}
        headers |= {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        headers |= {"Cross-Origin-Resource-Policy": "same-origin", "Referrer-Policy": "no-referrer"}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def known_host(header: str, name: str) -> bool:
    """Whether a Host header is an address, localhost, or the name that was configured."""
    try:
        host = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return False
    return host in ("localhost", name.lower()) or _address(host) is not None


def page_of(studio: Studio) -> tuple[str, str]:
    """The page, and the policy that lets its own script run and nothing else."""
    templates = _templates()
    script, _, _ = templates.loader.get_source(templates, "gallery.js")  # type: ignore[union-attr]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = templates.get_template("gallery.html").render(
        script=script,
        facts={
            "classes": studio.classes,
            "prompts": None if studio.prompts is None else studio.prompts[:200],
            "size": list(studio.student.shape[-2:]),
            "calls": studio.calls,
            "most": MOST,
        },
    )
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return page, policy


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("pipeline.gallery"), autoescape=True, undefined=StrictUndefined
    )


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
