"""The report and the gallery in a real browser."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import PairsConfig, S3Config
from pipeline.gallery.server import new_server
from pipeline.gallery.studio import Studio
from pipeline.models.families.gaussian import gaussian_teacher
from pipeline.report.page import render
from pipeline.report.source import find, read_run
from tests.report.run_folder import BEGAN, make_run

pytestmark = pytest.mark.cluster
BROWSERS = ("chromium-headless-shell", "chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="extra dev")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert path, f"needs one of {', '.join(BROWSERS)} on the PATH (Debian: {BROWSERS[0]})"
    # Chromium's sandbox does not start as root.
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=flags)
        yield started
        started.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of one run, and of two."""
    folder = tmp_path_factory.mktemp("runs")
    runs = [
        read_run(find(str(make_run(folder / name)), S3Config()), S3Config()) for name in ("a", "b")
    ]
    files = [folder / "one.html", folder / "two.html"]
    files[0].write_text(render(runs[:1], BEGAN + 200))
    files[1].write_text(render(runs, BEGAN + 200))
    return files


def until(condition: Callable[[], bool], page: Any) -> None:
    """Wait for something; the pages' policy does not let Playwright do it within them."""
    for _ in range(400):
        if condition():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it did not come")


class Opened:
    """A page, what it asked for and what it complained of."""

    def __init__(self, browser: Any, address: str, width: int = 1200, scheme: str = "light"):
        self.page = browser.new_page(
            viewport={"width": width, "height": 800}, color_scheme=scheme, offline=False
        )
        self.asked: list[str] = []
        self.wrong: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda line: self.wrong.append(line.text))
        self.page.goto(address)

    def pictures(self) -> list[int]:
        widths: list[int] = self.page.evaluate("[...document.images].map((i) => i.naturalWidth)")
        return widths


@pytest.mark.parametrize("width", [1280, 390, 320])
@pytest.mark.parametrize("which", [0, 1])
def test_a_report_opens_whole_on_any_width(
    browser: Any, reports: list[Path], which: int, width: int
) -> None:
    address = reports[which].as_uri()
    opened = Opened(browser, address, width)
    pictures = opened.pictures()
    assert len(pictures) == (18, 28)[which] and min(pictures) > 100
    assert [url for url in opened.asked if not url.startswith("data:")] == [address]
    assert opened.wrong == []
    # Nothing is wider than the screen, but what scrolls in a frame of its own.
    assert opened.page.evaluate("document.documentElement.scrollWidth") == width
    opened.page.close()


def test_the_slider_shows_one_step_at_a_time(browser: Any, reports: list[Path]) -> None:
    opened = Opened(browser, reports[0].as_uri())
    page = opened.page

    def seen() -> list[str]:
        return [
            frame.get_attribute("data-name")
            for frame in page.locator("#samples .frame:visible").all()
        ]

    slider, said = page.locator("#frames"), page.locator("#samples output")
    assert seen() == ["step 10"] and said.inner_text() == "step 10"
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert seen() == ["step 5"] and said.inner_text() == "step 5"
    assert slider.get_attribute("aria-valuetext") == "step 5"
    first = page.locator("#samples .frame:visible img").nth(1).get_attribute("src")
    page.locator("#samples button").click()
    until(lambda: said.inner_text() == "step 10", page)
    assert page.locator("#samples .frame:visible img").nth(1).get_attribute("src") != first
    page.close()


def test_a_chart_tells_the_values_under_the_pointer(browser: Any, reports: list[Path]) -> None:
    page = Opened(browser, reports[0].as_uri()).page
    chart = page.locator("figure.chart").filter(has_text="Losses")
    place, value = chart.locator(".place"), chart.locator("b[data-line='0']")
    assert (place.inner_text(), value.inner_text()) == ("10", "0.0909")
    chart.locator(".area").hover(position={"x": 1, "y": 20})
    assert (place.inner_text(), value.inner_text()) == ("1", "0.5")
    page.mouse.move(0, 0)
    assert value.inner_text() == "0.0909"
    page.close()


def test_light_and_dark_are_readable(browser: Any, reports: list[Path]) -> None:
    """Contrast of text and of its softer kind is at least 4.5 (WCAG AA) in both."""
    for scheme in ("light", "dark"):
        page = Opened(browser, reports[0].as_uri(), scheme=scheme).page
        colours = {
            name: page.evaluate(
                "([q, p]) => getComputedStyle(document.querySelector(q))[p].match(/[0-9.]+/g)"
                ".slice(0, 3).map(Number)",
                [query, part],
            )
            for name, query, part in (
                ("paper", "body", "backgroundColor"),
                ("card", ".tile", "backgroundColor"),
                ("ink", "body", "color"),
                ("soft", ".tile .note", "color"),
                ("pill", ".pill", "color"),
            )
        }
        for ink in ("ink", "soft", "pill"):
            for paper in ("paper", "card"):
                assert contrast(colours[ink], colours[paper]) >= 4.5, (scheme, ink, paper)
        page.close()


def contrast(one: list[float], two: list[float]) -> float:
    """Of two colours of sRGB in [0, 255], as WCAG 2.2 defines it."""

    def light(colour: list[float]) -> float:
        parts = [c / 255 for c in colour]
        lines = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * lines[0] + 0.7152 * lines[1] + 0.0722 * lines[2]

    low, high = sorted((light(one), light(two)))
    return (high + 0.05) / (low + 0.05)


def test_the_gallery_answers_slider_and_class(browser: Any) -> None:
    student, teacher = (gaussian_teacher((1, 8, 8), 10) for _ in range(2))
    server = new_server(Studio(student, teacher, PairsConfig(), seed=0), "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        opened = Opened(browser, f"http://127.0.0.1:{server.server_address[1]}/", 390)
        page = opened.page
        until(lambda: min(opened.pictures()) > 0, page)
        teacher = page.locator("#teacher img")
        before = teacher.get_attribute("src")
        page.locator("#at").focus()
        page.keyboard.press("End")
        until(lambda: teacher.get_attribute("src") != before, page)
        page.get_by_role("button", name="7").click()
        wanted = ("by=teacher", "class=7", "at=1")
        until(lambda: any(all(word in url for word in wanted) for url in opened.asked), page)
        assert page.locator("#teacher .time").inner_text().endswith("s")
        assert page.locator("button[aria-pressed=true]").inner_text() == "7"
        assert opened.wrong == []
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.locator("#first").fill("99999999999")
        until(lambda: page.locator("#error").inner_text().startswith("first:"), page)
        page.close()
    finally:
        server.shutdown()
        server.server_close()
