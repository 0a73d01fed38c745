"""Settings as YAML: whatever the file holds, it is read in bounded time, or refused in one line."""

import contextlib
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cli import main
from pipeline.cli.job import Job
from pipeline.config import Config, settings_yaml
from pipeline.utils.errors import UserError


def nine_of_each(line: str) -> str:
    """Thirty lines, each with the one before it nine times."""
    rows = (line.format(i=i, before=", ".join([f"*a{i - 1}"] * 9)) for i in range(1, 30))
    return "a0: &a0 {x: 1}\n" + "".join(rows)


HOSTILE = {
    "lists in one another": "run: " + 100_000 * "[",
    "mappings in one another": "run: " + 10_000 * "{a: ",
    "blocks in one another": "".join("  " * depth + "a:\n" for depth in range(1000)),
    "keys in one another": 3000 * "? " + "a",
    "a billion laughs": nine_of_each("a{i}: &a{i} [{before}]\n"),
    "a billion keys": nine_of_each("a{i}: &a{i} {{<<: [{before}]}}\n"),
    "a long text many times": f"a: &a {500_000 * 'y'}\nb: [{', '.join(['*a'] * 100_000)}]",
    "a part of itself": "run: &a [*a]",
    "the whole in itself": "&a {seed: 1, run: *a}",
    "a large file": 2**21 * "x",
    "a number of many digits": "seed: " + 5000 * "9",
    "a number of many parts": "seed: 1" + 400_000 * ":1",
    "no day": "seed: 2024-99-99",
    "no value of its type": "seed: !!timestamp x",
    "no truth": "seed: !!bool x",
    "days as keys": "pairs: {count: {2024-01-01: 1}}",
    "half of a character": 'run: "\\ud800"',
    "an unknown name without end": '? "' + 500_000 * "k" + '"\n: 1',
    "a call": "run: !!python/object/apply:os.getcwd []",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_settings_are_one_line(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: Config) -> None:
        raise AssertionError("started")

    file, began = tmp_path / "settings.yaml", time.monotonic()
    file.write_text(text)
    assert main(Job(refuse), ["--config", str(file)]) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1) and len(error) < 1000
    assert time.monotonic() - began < 5


@given(st.text(alphabet="ab01 \n:-,[]{}&*!?|>'\"#%~<.\\\t", max_size=60))
@settings(max_examples=500, deadline=None)
def test_any_text_is_a_mapping_or_one_error(text: str) -> None:
    with contextlib.suppress(UserError):
        assert isinstance(settings_yaml.read_text(text.encode(), "FILE"), dict)
    settings_yaml.parse(text)


def test_an_alias_is_what_it_stands_for() -> None:
    """What bounds files leaves what people write."""
    text = "a: &a {x: 1e-4, y: [1, 2]}\nb: {<<: *a, z: *a}\nc: *a"
    found = settings_yaml.read_text(text.encode(), "FILE")
    assert found["c"] == found["b"]["z"] == {"x": 1e-4, "y": [1, 2]}
    assert found["b"] == {"x": 1e-4, "y": [1, 2], "z": found["a"]}
    weights = ", ".join(["0.12345678901234"] * 21_843)  # of ImageNet's 21,843 classes
    assert len(settings_yaml.read_text(f"w: [{weights}]".encode(), "FILE")["w"]) == 21_843


def test_a_file_without_end_is_refused() -> None:
    with pytest.raises(UserError, match="/dev/zero"):
        settings_yaml.read("/dev/zero")


NUMBERS = ["1e-4", "2e5", "1.5e3", "5", "-3", "+4", "1_000", ".5", "5."]
TEXTS = ["010", "0100000", "20:00", "12:30.5", "0x10", "0b1", "00.5", "1.2.3", "+", "_1"]


def test_numbers_are_those_that_people_mean() -> None:
    """YAML 1.1 reads octal and sexagesimal ones: 010 as 8, 20:00 as 1200."""
    assert [settings_yaml.parse(text) for text in NUMBERS] == list(map(float, NUMBERS))
    assert [settings_yaml.parse(text) for text in TEXTS] == TEXTS


@given(st.one_of(st.sampled_from([*NUMBERS, *TEXTS, "null", "true", "no", "~", ""]), st.text()))
def test_what_is_written_is_read_again(text: str) -> None:
    with contextlib.suppress(UserError):  # of what YAML cannot hold
        assert settings_yaml.read_text(settings_yaml.dump({"a": text}).encode(), "it")["a"] == text
