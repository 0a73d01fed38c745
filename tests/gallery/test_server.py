"""The gallery through HTTP: what it makes, and what it refuses."""

import http.client
import io
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from html import escape
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.config import PairsConfig, TeacherConfig
from pipeline.diffusion.sampler import FewStepSampler
from pipeline.gallery import server
from pipeline.gallery.server import known_host, new_server
from pipeline.gallery.studio import Studio
from pipeline.models.families.gaussian import gaussian_teacher
from pipeline.models.loading import load_teacher
from pipeline.models.students import load_student
from pipeline.utils.errors import UserError
from tests.fixtures.tiny_models import save_tiny

Answer = tuple[int, http.client.HTTPMessage, bytes]
Get = Callable[..., Answer]


@contextmanager
def served(made: Studio) -> Iterator[Get]:
    """Answers of a server to GET, with headers as given."""
    running = new_server(made, "127.0.0.1", 0)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    host, port = running.server_address[:2]

    def get(path: str, method: str = "GET", **headers: str) -> Answer:
        connection = http.client.HTTPConnection(str(host), port, timeout=60)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=named)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, answer.msg, body

    get.address = host, port
    try:
        yield get
    finally:
        running.shutdown()
        running.server_close()
        thread.join()


@pytest.fixture(scope="module")
def get() -> Iterator[Get]:
    """Of an exact teacher of three classes; the student is the same network, in one call."""
    student, teacher = (gaussian_teacher((1, 4, 4), 3) for _ in range(2))
    with served(Studio(student, teacher, PairsConfig(), seed=0)) as answers:
        yield answers


def image(get: Get, **words: object) -> tuple[torch.Tensor, float]:
    """The pixels, (H, W) in [0, 255], and the milliseconds."""
    status, headers, body = get("/image?" + urlencode({"first": 0, "second": 1, **words}))
    assert status == 200, body
    picture = Image.open(io.BytesIO(body)).convert("L")
    pixels = torch.tensor(np.asarray(picture))
    return pixels, float(headers["Server-Timing"].removeprefix("network;dur="))


def test_student_and_teacher_of_one_noise_with_their_times(get: Get) -> None:
    words = {"class": 1, "at": 0.5}
    student, fast = image(get, by="student", **words)
    teacher, slow = image(get, by="teacher", **words)
    assert student.shape == teacher.shape == (4, 4)
    assert not torch.equal(student, teacher)
    assert fast > 0 and slow > 0
    assert torch.equal(image(get, by="teacher", **words)[0], teacher)
    assert not torch.equal(image(get, by="teacher", **words, second=2)[0], teacher)


def test_the_way_leads_from_one_noise_to_the_other(get: Get) -> None:
    row, _ = image(get, by="teacher", count=9, **{"class": 2})
    assert row.shape == (4, 36)
    for at, columns in ((0, row[:, :4]), (0.5, row[:, 16:20]), (1, row[:, 32:])):
        assert torch.equal(image(get, by="teacher", at=at, **{"class": 2})[0], columns)
    same, _ = image(get, by="teacher", at=0.3, first=7, second=7, **{"class": 2})
    assert torch.equal(same, image(get, by="teacher", first=7, **{"class": 2})[0])
    other, _ = image(get, by="teacher", first=7, **{"class": 0})
    assert not torch.equal(same, other)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("class=3&first=0&second=1", "class: '3' is no whole number from 0 to 2"),
        ("class=-1&first=0&second=1", "class: '-1'"),
        ("class=²&first=0&second=1", "class: '²'"),
        ("first=0&second=1", "class: ''"),
        ("class=0&first=0", "second: ''"),
        ("class=0&first=99999999999999999999&second=1", "first: '99999999999999999999' is no"),
        ("class=0&first=4294967296&second=1", "first: '4294967296'"),
        ("class=0&first=0&second=1&count=100000", "count: '100000' is no whole number from 1 to 9"),
        ("class=0&first=0&second=1&at=nan", "at: 'nan' is no number from 0 to 1"),
        ("class=0&first=0&second=1&at=1.1", "at: '1.1'"),
        ("class=0&first=0&second=1&by=critic", "by: 'critic' is neither student nor teacher"),
        ("class=0&first=0&second=1&size=9999", "size: unknown; known are at, by, class, count"),
    ],
)
def test_a_wrong_wish_is_refused_in_words(get: Get, words: str, said: str) -> None:
    status, headers, body = get("/image?" + words.replace("²", "%C2%B2"))
    assert status == 400 and headers["Content-Type"] == "application/json"
    assert json.loads(body)["error"].startswith(said)
    assert get("/image?class=0&first=0&second=1")[0] == 200


def test_other_paths_and_methods_and_long_lines_are_refused(get: Get) -> None:
    for path in ("/images", "/../etc/passwd", "//evil.example/image?class=0"):
        assert get(path)[0] == 404
    with socket.create_connection(get.address, timeout=60) as connection:
        connection.sendall(b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")
    assert get("/", "POST")[0] == 501
    assert get("/image?prompt=" + 70_000 * "x")[0] == 414


def test_no_page_of_another_site_can_use_it(get: Get) -> None:
    wish = "/image?class=0&first=0&second=1"
    for path in ("/", wish):
        for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "[", ""):
            status, _, body = get(path, Host=host)
            assert status == 403 and "sample.host" in json.loads(body)["error"], host
        for host in ("localhost:1234", "127.0.0.1", "[::1]:8000"):
            assert get(path, Host=host)[0] == 200, host
    assert get(wish, Sec_Fetch_Site="cross-site")[0] == 403
    assert get(wish, Sec_Fetch_Site="same-origin")[0] == 200
    assert known_host("gpu-box:8000", "gpu-box") and not known_host("gpu-box", "127.0.0.1")


def test_the_page_runs_its_own_script_alone(get: Get) -> None:
    status, headers, body = get("/")
    page = body.decode()
    assert status == 200 and page.count("<script") == 1
    assert [label for label in range(9) if f'data-class="{label}"' in page] == [0, 1, 2]
    assert "Student, 1 call<" in page and "One step, or 35 calls" in page
    assert "http:" not in page and "https:" not in page
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


def test_a_student_of_several_steps_is_called_that() -> None:
    student, teacher = (gaussian_teacher((1, 4, 4), 3) for _ in range(2))
    student = student.with_sampler(FewStepSampler(student.schedule, (80.0, 6.0, 0.3)))
    with served(Studio(student, teacher, PairsConfig(), seed=0)) as get:
        page = get("/")[2].decode()
    assert "Student, 3 calls<" in page and "3 steps, or 35 calls" in page


def test_any_prompt_can_be_asked_for(tmp_path: Path) -> None:
    folder, prompts = save_tiny(tmp_path / "teacher"), tmp_path / "prompts.txt"
    hostile = "a <b> & 'c\" </script>"
    prompts.write_text(f"{json.dumps(hostile)}\n{json.dumps('a cat')}\n")
    teacher = TeacherConfig(output=str(folder), prompts=str(prompts))
    student, pairs = load_student(folder, teacher), PairsConfig(solver="euler", steps=2)
    with served(Studio(student, load_teacher(teacher), pairs, seed=0)) as get:
        page = get("/")[2].decode()
        assert hostile not in page and f'value="{escape("a cat")}"' in page
        cat, new, again = (
            image(get, prompt=text, by="student")[0] for text in ("a cat", "dog", "a cat")
        )
        assert torch.equal(cat, again) and not torch.equal(cat, new)
        status, _, body = get("/image?first=0&second=1&prompt=" + 1001 * "x")
        assert status == 400 and b"1001 characters are more than 1000" in body


def test_200_at_once_are_all_answered_by_a_few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others wait; a connection that asks for nothing keeps none from it for long."""
    monkeypatch.setattr(server, "CONNECTIONS", 8)
    monkeypatch.setattr(server.Handler, "timeout", 1)
    asked = {
        "/": 200,
        "/image?class=1&first=0&second=1": 200,
        "/image?class=1&first=0&second=1&by=teacher&count=9": 200,
        "/image?class=99&first=0&second=1": 400,
        "/none": 404,
    }
    wishes, answering, most = 40 * list(asked), 0, 0
    handle, lock = server.Handler.handle, threading.Lock()

    def counted(handler: server.Handler) -> None:
        nonlocal answering, most
        with lock:
            answering += 1
            most = max(most, answering)
        try:
            handle(handler)
        finally:
            with lock:
                answering -= 1

    monkeypatch.setattr(server.Handler, "handle", counted)
    student, teacher = (gaussian_teacher((1, 4, 4), 3) for _ in range(2))
    with served(Studio(student, teacher, PairsConfig(steps=2), seed=0)) as get, ExitStack() as idle:
        for _ in range(4):
            idle.enter_context(socket.create_connection(get.address))
        clients = ThreadPoolExecutor(len(wishes))
        answers = [clients.submit(get, wish) for wish in wishes]
        clients.shutdown()
    assert [each.result()[0] for each in answers] == [asked[wish] for wish in wishes]
    assert 1 < most <= 8


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    maker = new_server(None, "127.0.0.1", 0)  # type: ignore[arg-type]
    with maker, pytest.raises(UserError, match=r"sample.port: cannot listen at 127.0.0.1:\d+"):
        new_server(None, "127.0.0.1", maker.server_address[1])  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"sample.host, .* no-such-host"):
        new_server(None, "no-such-host.invalid", 0)  # type: ignore[arg-type]


def test_a_student_of_another_teacher_is_refused() -> None:
    with pytest.raises(UserError, match="evaluate.student"):
        Studio(gaussian_teacher((1, 4, 4), 3), gaussian_teacher((1, 8, 8), 3), PairsConfig(), 0)
