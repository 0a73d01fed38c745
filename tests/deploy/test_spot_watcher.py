"""The watcher for spot notices, against a metadata service and a `ray` of this test."""

import json
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Metadata(BaseHTTPRequestHandler):
    """IMDSv2: a token first; an error, nothing, then a notice."""

    answers: list[int] = []
    time = ""

    def do_PUT(self) -> None:  # noqa: N802
        assert self.path == "/latest/api/token"
        assert int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) > 0
        self._answer(200, "a-token")

    def do_GET(self) -> None:  # noqa: N802
        if self.headers["X-aws-ec2-metadata-token"] != "a-token":
            return self._answer(401, "")
        code = self.answers.pop(0)
        notice = {"action": "terminate", "time": self.time}
        return self._answer(code, json.dumps(notice) if code == 200 else "")

    def _answer(self, code: int, text: str) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


def test_a_notice_drains_the_node_until_its_deadline(tmp_path):
    end = datetime.now(UTC) + timedelta(seconds=120)
    Metadata.answers, Metadata.time = [500, 404, 404, 200], end.strftime("%Y-%m-%dT%H:%M:%SZ")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ray = tmp_path / "ray"
    ray.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/asked\n')
    ray.chmod(0o755)
    code = "import deploy.spot_watcher as w; w.SECONDS = 0.1; raise SystemExit(w.main())"
    endpoint = f"http://127.0.0.1:{server.server_port}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ
        | {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": endpoint,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    server.shutdown()
    assert done.returncode == 0, done.stderr
    assert "500" in done.stderr and "trying again" in done.stderr
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[:3] == ["drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    assert "EC2 spot notice: terminate" in asked[4]
    assert 90 <= int(asked[-1]) <= 120
