"""The report: what it says of a run, and that it is sound whatever it is given."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image

from pipeline.config import Config, S3Config
from pipeline.report import page, words
from pipeline.report.source import FoundRun, find, read_run
from pipeline.utils.errors import UserError
from pipeline.utils.image_grid import save_grid
from tests.report.run_folder import BEGAN, EVENTS, FIGURES, PROMPTS, line, make_run, write

LATER = BEGAN + 200


class Page(HTMLParser):
    """What is in a page: tags with their attributes, and the text that is read."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self._read: list[str] = []
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._inside = tag
        self._read.append("" if tag == "wbr" else " ")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self._read.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self._read).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def read(folder: Path) -> FoundRun:
    return read_run(find(str(folder), S3Config()), S3Config())


def shown(*folders: Path, now: float = LATER) -> Page:
    return Page(page.render([read(folder) for folder in folders], now))


def test_everything_of_a_run_is_there_and_nothing_is_asked_of_the_network(made: Path) -> None:
    found = shown(made)
    for expected in (
        *("digits/seed-0", "finished", "10 steps done", "35×", "98.0%", "teacher 99.0%"),
        *("The same noise", "The nearest real images", "Where it fails", "noise", "student"),
        *("Losses", "Gradient norms", "Fréchet distance to the teacher", "critic"),
        *("Steps against the clock", "regression: 400 ms a step", "200 ms", "other"),
        *("No fault found.", "Against teacher, n 400", "0.75 [0.65, 0.85] 0.875 [0.775, 0.975]"),
        *("By prompts, n 300", "student teacher other prompts pick 0.25 [0.15, 0.35]"),
        *("Features: a net, torch 2, weights 0123456789ab.", "metrics.features.name"),
        *("abacus", "distill.steps", "regression_steps: 4", "floor 0.25 · n 400"),
    ):
        assert expected in found.text, expected
    pictures = found.all("img")
    # The evaluation; two steps of two rows in two blocks, and of two prompts.
    assert len(pictures) == 3 * 2 + 2 * 2 * 2 + 2 * 2
    assert all(each["src"].startswith("data:image/") and each["alt"] for each in pictures)
    for _, attributes in found.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            target = attributes.get(name, "data:")
            assert target.startswith("data:") or (name == "href" and target[0] == "#"), target
    policy = next(each["content"] for each in found.all("meta") if "http-equiv" in each)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert not found.all("link")[1:] and "url(" not in page.render([read(made)])


def test_every_chart_and_control_has_words_for_those_who_do_not_see_it(made: Path) -> None:
    found = shown(made)
    charts = [each for each in found.all("svg") if each.get("role") == "img"]
    assert len(charts) == len(found.all("svg")) >= 5
    labels = [each["aria-label"] for each in charts]
    assert "Losses: regression goes from 0.5 at step 1 to 0.0909 at step 10; critic" in labels[1]
    assert all(each.get("aria-label") or each.get("id") for each in found.all("input"))
    assert found.all("html")[0]["lang"] == "en" and found.all("h1")


def test_work_and_who_waits_for_whom_are_shown(folder: Path) -> None:
    gpu = {"tflops": 300.0, "mfu": 0.303, "seconds_host": 0.15, "seconds_device": 0.3}
    lines = [json.dumps(line(step, **gpu)) for step in range(1, 11)]
    write(folder / "distill" / "metrics.jsonl", "\n".join(lines) + "\n")
    found = shown(folder)
    labels = " ".join(each["aria-label"] for each in found.all("svg"))
    assert "Work: TFLOP/s goes from 300" in labels and "Share of the peak: share goes" in labels
    assert "The host was still at work in 50% of the GPU's time." in found.text


def test_the_timeline_tells_of_loss_and_return(made: Path) -> None:
    said = [(entry.mood, entry.text) for entry in words.timeline(read(made))]
    assert said == [
        ("good", "Started on 2 workers."),
        ("bad", "The workers were lost: a worker died"),
        (
            "good",
            "Went on from the checkpoint of step 4 on 1 worker. Steps 5 to 6 were done again.",
        ),
        ("good", "All 10 steps done."),
        ("bad", "Left out for want of a finite gradient: steps 7."),
    ]


@pytest.mark.parametrize(
    ("last", "now", "word", "text"),
    [
        ({"kind": "start", "time": BEGAN, "step": 0}, BEGAN + 90, "running", "10 of 10 steps"),
        ({"kind": "start", "time": BEGAN, "step": 0}, BEGAN + 9000, "silent", "it was killed?"),
        ({"kind": "left", "time": BEGAN, "step": 6}, LATER, "stopped", "the same command goes on"),
        (
            {"kind": "failed", "time": BEGAN, "step": 6, "error": "UserError: full"},
            LATER,
            "failed",
            "UserError: full",
        ),
        ({"kind": "end", "time": BEGAN, "step": 10}, LATER, "trained", "not saved yet"),
    ],
)
def test_how_a_run_stands(folder: Path, last: dict, now: float, word: str, text: str) -> None:
    (folder / "distill" / "state.json").unlink()
    write(folder / "distill" / "events.jsonl", json.dumps(last) + "\n")
    status = words.status(read(folder), now)
    assert status.word == word and text in status.text


def test_a_killed_attempt_is_told_where_nobody_wrote_its_end(folder: Path) -> None:
    events = [EVENTS[0], EVENTS[2]]
    write(folder / "distill" / "events.jsonl", "\n".join(json.dumps(each) for each in events))
    said = words.timeline(read(folder))[1]
    assert said.mood == "bad" and said.text.startswith("The attempt before ended without a word.")


def test_what_was_found_and_where_it_went_back_to_are_told(folder: Path) -> None:
    found = {"kind": "finding", "time": BEGAN + 30, "step": 4, "text": "modes are lost"}
    back = {"kind": "roll_back", "time": BEGAN + 40, "step": 2, "reached": 4}
    again = {"kind": "start", "time": BEGAN + 50, "step": 2}
    (folder / "distill" / "state.json").unlink()
    events = [EVENTS[0], found, back, again, found]
    write(folder / "distill" / "events.jsonl", "\n".join(json.dumps(each) for each in events))
    run = read(folder)
    said = [(entry.mood, entry.text) for entry in words.timeline(run)][1:5]
    assert [mood for mood, _ in said] == ["bad", "bad", "good", "bad"]
    assert "modes are lost" in said[0][1] and "from step 4" in said[1][1] and "2" in said[2][1]
    assert words.status(run, BEGAN + 60).word == "running", "a finding ends no attempt"
    assert words.trained(run) == 40 + (run.metrics[-1]["time"] - BEGAN - 50)


EVIL = "<script>alert(1)</script>\"'><img src=http://evil.example onerror=alert(2)>"


def test_text_of_others_stays_text(folder: Path) -> None:
    """Prompts, errors, names, captions and figures: whatever they hold, the page runs only ours."""
    output = folder / "distill"
    make_run(folder, teacher={"negative_prompt": EVIL}, data={"name": None, "folder": EVIL})
    events = [*EVENTS, {"kind": "failed", "time": BEGAN + 130, "step": 10, "error": EVIL}]
    events[0] = {**events[0], "machine": {EVIL: EVIL}}
    write(output / "events.jsonl", "\n".join(json.dumps(each) for each in events))
    write(output / "metrics.jsonl", json.dumps({**line(3), EVIL: 1.0}) + "\n")
    write(folder / "evaluation.json", {**FIGURES, EVIL: 1.0, "library": EVIL})
    save_grid({EVIL: torch.zeros(2, 1, 8, 8)}, folder / "failures.png", columns=[EVIL, EVIL])
    (output / "state.json").unlink()
    evil = folder.rename(folder.with_name(EVIL.replace("/", "-")))
    calm = make_run(folder)
    assert EVIL not in shown(calm).text
    for found in (shown(evil), shown(evil, calm)):
        assert len(found.all("script")) == 1
        assert not [each for each in found.all("img") if not each["src"].startswith("data:")]
        assert not [name for _, each in found.tags for name in each if name.startswith("on")]
        assert EVIL in found.text


NAMES = [
    *("distill/config.yaml", "distill/run.json", "distill/metrics.jsonl", "distill/events.jsonl"),
    *("distill/skipped.jsonl", "distill/state.json", "distill/samples/step-0000005.png"),
    "distill/samples/prompts-0000005.png",
    *("distill/checkpoints/0000005-abcd.score", "evaluation.json", "evaluation.png"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_part_that_is_missing_or_damaged_costs_only_itself(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert not read(folder).troubles
    shown(folder)
    for damage in (b"", b'[1, {"step": "x"}]\n{"step": 2, "tim', b"null", b"\xff\xfe{\x00"):
        (folder / name).write_bytes(damage)
        read(folder)
    found = shown(folder)
    assert found.all("img") and "The nearest real images" in found.text
    if not name.endswith((".jsonl", ".yaml")):
        assert "Left out" in found.text and Path(name).name in found.text


def test_damaged_records_of_an_evaluation_are_told(folder: Path) -> None:
    comparisons = [{"reference": {}, "n": "many", "figures": {}}]
    write(folder / "evaluation.json", {"metrics": {"comparisons": comparisons}})
    (trouble,) = read(folder).troubles
    assert trouble.startswith("evaluation.json cannot be read: metrics.comparisons.0.n: ")
    write(folder / "evaluation.json", {"fd_teacher": 1.0, "fd_floor": 2.0, "n_teacher": 300})
    assert words.verdict(read(folder).evaluation)[0].startswith(
        "The student's images are 0.5 times"
    )


def test_a_torn_last_line_is_left_out(folder: Path) -> None:
    with (folder / "distill" / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 11, "regr')
    assert [each["step"] for each in read(folder).metrics] == list(range(1, 11))
    assert not read(folder).troubles


def test_a_folder_without_a_run_is_one_clear_error(tmp_path: Path) -> None:
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(UserError, match=r"report.runs: there is no run in .*give the folder"):
            find(str(missing), S3Config())
    config = Config.model_validate({"run": str(tmp_path)})
    with pytest.raises(UserError, match=r"nothing of a run is there yet; run jobs/distill.py"):
        page.report(config)
    assert not (tmp_path / "report.html").exists()


def test_figures_at_different_n_are_never_side_by_side(made: Path, folder: Path) -> None:
    write(folder / "evaluation.json", {**FIGURES, "fd_teacher": 0.8, "n_teacher": 5000})
    write(
        folder / "distill/checkpoints/0000010-abcd.score", {"fd_teacher": 0.4, "n": 99, "floor": 0}
    )
    runs = [read(made), read(folder)]
    rows = {(title, n): cells for title, n, cells in page.tables.side_by_side(runs)}
    assert rows["Fréchet distance to the teacher", "400"] == ["0.5", ""]
    assert rows["Fréchet distance to the teacher", "5,000"] == ["", "0.8"]
    assert rows["Fréchet distance to real images", "1,438"] == ["0.7", "0.7"]
    assert rows["recall against teacher, student", "400"] == 2 * ["0.75 [0.65, 0.85]"]
    other = json.loads(json.dumps(FIGURES).replace("a net", "another net"))
    write(folder / "evaluation.json", other)
    cells = [each for _, _, each in page.tables.side_by_side([read(made), read(folder)])]
    assert cells and all("" in each for each in cells), "in other features nothing compares"
    scores = [chart for chart in page.compared(runs) if chart.title.startswith("Fréchet")]
    assert [len(chart.lines) for chart in scores] == [2, 4]
    own = {"fd_teacher": 9, "n": 99, "floor": 1, "features": "pixels"}
    write(folder / "distill/checkpoints/0000020-abcd.score", own)
    scores = [chart for chart in page.compared([read(made), read(folder)]) if "Fr" in chart.title]
    assert [chart.note.count(", in pixels. ") for chart in scores] == [0, 1, 0]
    found = shown(made, folder)
    assert "2 runs side by side" in found.text and found.text.count("some/run") >= 4
    large = [
        tile.label
        for view in page.comparable([page.view(run, LATER) for run in runs])
        for tile in view.tiles
    ]
    assert large == 2 * ["Faster than the teacher", "Steps"]


def test_captions_have_their_number_and_students_of_several_steps_their_calls(
    folder: Path,
) -> None:
    sides = {"student": 0.8, "teacher": 0.9}
    runs = []
    for n, calls in ((600, 4), (50, 1)):
        captions = {"seen": {"n": n}, "held_out": {"n": n + 1}}
        metrics = {
            **FIGURES["metrics"],
            "captions": captions,
            "caption_diversity": {"seen": {"n": n // 10}},
            "speed": {"student": {"nfe": calls}},
        }
        judged = {"names_seen": sides | {"real": 1.0}, "my_names_held_out": sides | {"real": 1.0}}
        evaluation = {**FIGURES, **judged, "diversity_seen": sides, "metrics": metrics}
        runs.append(replace(read(folder), evaluation=evaluation))
    rows = {(title, n): cells for title, n, cells in page.tables.side_by_side(runs)}
    assert rows["names seen: right (real images 1)", "600"] == ["0.8", ""]
    assert rows["my names held out: right (real images 1)", "51"] == ["", "0.8"]
    assert rows["diversity seen", "60"] == ["0.8", ""]
    assert rows["network calls", ""] == ["4", "1"]


def test_a_place_beside_the_run_is_not_in_it(folder: Path) -> None:
    settings = {"run": "/x/sdxl", "teacher": {"output": "/x/sdxl-other"}}
    settings |= {"pairs": {"output": "/x/sdxl/pairs"}}
    runs = [replace(read(folder), settings=settings)]
    assert "teacher.output" in [name for name, *_ in page.tables.changed(runs[0])]
    runs.append(replace(runs[0], settings={"run": "/y/wan", "teacher": {"output": "/y/wan-b"}}))
    found = [name for name, _ in page.tables.differences(runs)]
    assert "teacher.output" in found and "run" not in found


def test_figures_against_other_real_images_are_never_side_by_side(folder: Path) -> None:
    runs = []
    for digest in ("abc", "def"):
        evaluation = json.loads(json.dumps(FIGURES))
        record = {"reference": {"name": "real", "fingerprint": digest}, "n": 1438, "figures": {}}
        evaluation["metrics"]["comparisons"].append(record)
        runs.append(replace(read(folder), evaluation=evaluation))
    found = page.tables.side_by_side(runs)
    cells = [cells for title, _, cells in found if title == "Fréchet distance to real images"]
    assert cells == [["0.7", ""], ["", "0.7"]]
    assert ["0.5", "0.5"] in [cells for title, _, cells in found if "the teacher" in title]


def test_the_file_is_where_one_looks_for_it(
    made: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def to(**report: object) -> Path:
        return page.report(Config.model_validate({"run": str(folder), "report": report}))

    assert to() == folder / "report.html"
    assert to(runs=[str(folder / "distill")]).resolve() == folder / "distill" / "report.html"
    assert to(runs=[str(made), str(folder)]) == Path("report.html")
    assert to(output=str(tmp_path / "new" / "x.html")).read_text().startswith("<!doctype html>")
    with pytest.raises(ValueError, match=r"report.output: .* is no local folder"):
        to(output="s3://bucket/x.html")


def test_an_old_run_without_journal_and_layouts_is_shown_as_far_as_it_goes(folder: Path) -> None:
    output = folder / "distill"
    for name in ("events.jsonl", "config.yaml"):
        (output / name).unlink()
    old = [{"step": step, "regression": 1.0} for step in (5, 10)]
    write(output / "metrics.jsonl", "".join(json.dumps(each) + "\n" for each in old))
    Image.new("RGB", (300, 100), "red").save(output / "samples" / "step-0000005.png")
    found = shown(folder)
    assert "finished" in found.text and "Losses" in found.text
    assert "picture plain" in [each.get("class") for each in found.all("div")]


def test_a_figure_of_another_method_has_a_chart_of_its_own(folder: Path) -> None:
    lines = [line(step, gan_loss=0.5 / step) for step in (2, 4)]
    write(folder / "distill" / "metrics.jsonl", "".join(json.dumps(x) + "\n" for x in lines))
    assert "gan loss: gan_loss goes from 0.25 at step 2 to 0.125 at step 4." in [
        each.get("aria-label") for each in shown(folder).all("svg")
    ]


def test_many_grids_become_a_few_with_the_last(folder: Path) -> None:
    one = (folder / "distill/samples/step-0000005.png").read_bytes()
    for step in range(100, 300):
        (folder / f"distill/samples/step-{step:07d}.png").write_bytes(one)
    grids = list(read(folder).grids)
    assert len(grids) == 24 and grids[0] == 5 and grids[-1] == 299


def test_the_training_time_leaves_pauses_out(made: Path) -> None:
    run = read(made)
    assert words.trained(run) == pytest.approx(60)  # what the lost attempt did is not known
    events = [replace(run.events[0]), replace(run.events[2], reached_at=BEGAN + 40), run.events[3]]
    run.events = events
    assert words.trained(run) == pytest.approx(40 + 60)


def test_a_submitted_job_makes_one_too(tmp_path, monkeypatch):
    """Its working directory is a copy of which Ray keeps nothing."""
    copy = tmp_path / "runtime_resources" / "working_dir_files" / "package"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    folder = tmp_path / "run"
    make_run(folder)
    page.report(Config(run=str(folder)))
    assert (folder / "report.html").is_file()


def test_prompts_over_time_have_their_words_as_captions(folder: Path) -> None:
    run = read(folder)
    assert list(run.prompts) == [5, 10]
    found = shown(folder)
    assert all(" ".join(prompt.split()) in found.text for prompt in PROMPTS)
    for step in (5, 10):
        (folder / f"distill/samples/prompts-{step:07d}.png").unlink()
    assert "Prompts over time" in found.text
    assert "Prompts over time" not in shown(folder).text
