"""A small Hugging Face Hub in this process: as much of its protocol as huggingface_hub speaks."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

Files = dict[str, bytes]
TOKEN = "hf_secretsecretsecret"


@dataclass
class Repo:
    """One model: its commits, the newest last, and who may see it."""

    commits: dict[str, Files]
    closed: str = ""
    """"gated", "private", or "" for everyone."""
    visibility: str = "public"

    @property
    def head(self) -> str:
        return list(self.commits)[-1]


@dataclass
class Hub:
    """What the server holds and was asked.

    Attributes:
        url: Of the server.
        repos: By owner/name.
        stored: Large files that were put, by SHA-256; a commit names them.
        owner: Whose models the token may write.
        asked: Method and path of every request.
        headers: All headers of every request, as text.
    """

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    stored: Files = field(default_factory=dict)
    owner: str = "someone"
    asked: list[str] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)

    def add(self, name: str, folder: Path, closed: str = "") -> str:
        """Put a folder there; returns its commit."""
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        repo = self.repos.setdefault(name, Repo({}, closed))
        return commit(repo, files)

    def downloads(self) -> set[str]:
        """Files whose content was asked for."""
        paths = [each.removeprefix("GET ") for each in self.asked if each.startswith("GET ")]
        return {
            path.split("/", 5)[5] for path in paths if path.count("/") > 4 and "/resolve/" in path
        }


def commit(repo: Repo, files: Files) -> str:
    content = repr(sorted(files.items())) + repr(list(repo.commits))
    oid = hashlib.sha1(content.encode()).hexdigest()
    repo.commits[oid] = files
    return oid


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:  # noqa: N802
        self._answer()

    def do_GET(self) -> None:  # noqa: N802
        self._answer()

    def do_POST(self) -> None:  # noqa: N802
        self._answer()

    def do_PUT(self) -> None:  # noqa: N802
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        self.hub.headers.append(str(self.headers))
        parts = path.strip("/").split("/")
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._json({})
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._batch(path.removesuffix(".git/info/lfs/objects/batch").strip("/"), body)
        elif parts[0] == "storage":  # elsewhere in truth: its address is the permission
            self.hub.stored[parts[1]] = body
            right = hashlib.sha256(body).hexdigest() == parts[1]
            self._send(200 if right else 400, b"", {})
        elif parts[:2] == ["api", "models"]:
            self._api("/".join(parts[2:4]), parts[4:], body)
        elif len(parts) > 4 and parts[2] == "resolve":
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._send(404, b"", {})

    def _may(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repo(self, name: str, content: bool) -> Repo | None:
        """The repository, or None once a refusal was sent."""
        repo = self.hub.repos.get(name)
        if repo is None or (repo.closed == "private" and not self._may()):
            self._refuse(404 if self._may() else 401, "RepoNotFound")
        elif repo.closed == "gated" and content:
            self._refuse(403 if self._may() else 401, "GatedRepo")
        else:
            return repo
        return None

    def _files(self, repo: Repo, revision: str) -> Files | None:
        oid = repo.head if revision == "main" else revision
        if oid not in repo.commits:
            self._refuse(404, "RevisionNotFound")
        return repo.commits.get(oid)

    def _api(self, name: str, rest: list[str], body: bytes) -> None:
        verb, revision = (*rest, "main")[:2] if rest else ("revision", "main")
        if (repo := self._repo(name, content=False)) is None:
            return
        if verb in ("preupload", "commit") and not (
            self._may() and name.startswith(f"{self.hub.owner}/")
        ):
            return self._refuse(403, "Forbidden")
        if (files := self._files(repo, revision)) is None:
            return None
        if verb == "revision":
            siblings = [{"rfilename": path} for path in files]
            oid = repo.head if revision == "main" else revision
            return self._json({"id": name, "sha": oid, "siblings": siblings, "tags": []})
        if verb == "tree":
            return self._json(
                [
                    {"type": "file", "path": path, "size": len(data), "oid": _etag(data)}
                    for path, data in files.items()
                ]
            )
        if verb == "preupload":
            return self._json(
                {
                    "files": [
                        {
                            "path": each["path"],
                            "uploadMode": "lfs" if _large(each["path"]) else "regular",
                            "shouldIgnore": False,
                        }
                        for each in json.loads(body)["files"]
                    ]
                }
            )
        return self._commit(name, repo, body)

    def _commit(self, name: str, repo: Repo, body: bytes) -> None:
        files = dict(repo.commits[repo.head])
        for line in body.splitlines():
            each = json.loads(line)
            if each["key"] == "file":
                files[each["value"]["path"]] = base64.b64decode(each["value"]["content"])
            elif each["key"] == "lfsFile":
                files[each["value"]["path"]] = self.hub.stored[each["value"]["oid"]]
            elif each["key"] == "deletedFile":
                del files[each["value"]["path"]]
        oid = commit(repo, files)
        self._json({"commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}"})

    def _batch(self, name: str, body: bytes) -> None:
        """Where large files are put, for those that are not there (Git LFS's batch API)."""
        if not (self._may() and name.startswith(f"{self.hub.owner}/")):
            return self._refuse(403, "Forbidden")
        objects = json.loads(body)["objects"]
        for each in objects:
            if each["oid"] not in self.hub.stored:
                address = f"{self.hub.url}/storage/{each['oid']}"
                each["actions"] = {"upload": {"href": address, "header": {}}}
        return self._json({"transfer": "basic", "objects": objects})

    def _create(self, asked: dict[str, str]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if not self._may():
            return self._refuse(401, "", "Invalid credentials in Authorization header")
        if asked["organization"] != self.hub.owner:
            return self._refuse(403, "Forbidden")
        if name in self.hub.repos:
            return self._json({"url": f"{self.hub.url}/{name}"}, 409)
        repo = self.hub.repos[name] = Repo({}, visibility=asked.get("visibility", "public"))
        commit(repo, {".gitattributes": b""})
        return self._json({"url": f"{self.hub.url}/{name}"})

    def _file(self, name: str, revision: str, path: str) -> None:
        repo = self._repo(name, content=True)
        files = self._files(repo, revision) if repo else None
        if files is None:
            return
        if path not in files:
            return self._refuse(404, "EntryNotFound")
        self._send(200, files[path], {"ETag": f'"{_etag(files[path])}"', "X-Repo-Commit": revision})

    def _refuse(self, status: int, code: str, message: str = "no") -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": message})

    def _json(self, content: object, status: int = 200) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _large(path: str) -> bool:
    """As a new repository's .gitattributes says."""
    return path.endswith((".safetensors", ".bin", ".ckpt", ".msgpack", ".pkl"))


def _etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@contextmanager
def serve(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Hub]:
    """Run a Hub, and have this process use it, without a token and with an empty cache."""
    from huggingface_hub import constants

    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    for name, value in {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(folder / "hub"),
        "HF_TOKEN_PATH": str(folder / "token"),
        "HF_HUB_DISABLE_XET": True,  # its storage has a protocol of its own
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(folder / "home"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
