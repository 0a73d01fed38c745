"""Credentials are no settings: refused before anything is written, and never repeated."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.cli import main
from pipeline.cli.job import Job
from pipeline.config import Config, S3Config
from pipeline.stages.sample import sample
from pipeline.utils.errors import UserError

SECRET = "s3cr3t"
URIS = (
    "http://user:s3cr3t@host:9000",
    "https://s3cr3t@host",
    "http://AKIA:a/s3cr3t+@host",
    "s3://user:s3cr3t@bucket/prefix",
    "s3://bucket/prefix?X-Amz-Signature=s3cr3t",
    "s3://bucket/prefix?AWSAccessKeyId=AKIA&sig=s3cr3t",
    "gs://bucket/prefix?X-Goog-Signature=s3cr3t",
    "hf://user:s3cr3t@owner/name",
    "hf://owner/name?token=s3cr3t",
)


def texts(tree: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the settings that take text, or a list of it."""
    found: list[str] = []
    for name, schema in tree["properties"].items():
        kinds = [schema, *schema.get("anyOf", []), schema.get("items", {})]
        if "$ref" in schema:
            branch = ALL["$defs"][schema["$ref"].rpartition("/")[2]]
            found += texts({**branch, "$defs": {}}, f"{prefix}{name}.")
        elif any(kind.get("type") == "string" and "enum" not in kind for kind in kinds):
            found.append(prefix + name)
    return found


ALL = Config.model_json_schema()
TEXTS = texts(ALL)


def tree_of(name: str, value: object) -> dict[str, Any]:
    for part in reversed(name.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("name", TEXTS)
def test_no_setting_takes_a_uri_with_credentials(name: str) -> None:
    """Of its type or another, alone or in a list: one message, which does not repeat it."""
    for uri in URIS:
        for value in (uri, [uri], {"x": uri}):
            with pytest.raises(ValidationError) as caught:
                Config.model_validate(tree_of(name, value))
            (error,) = caught.value.errors()
            assert name in error["msg"] and "AWS_SECRET_ACCESS_KEY" in error["msg"]
            assert SECRET not in error["msg"]


def test_those_that_can_be_uris_are_among_them() -> None:
    assert {
        *("run", "s3.endpoint", "teacher.output", "teacher.file", "teacher.base", "report.runs"),
        *("teacher.prompts", "data.folder", "pairs.output", "encode.source", "encode.output"),
        *("distill.output", "distill.start_from", "export.output", "evaluate.reference"),
        *("evaluate.student", "evaluate.weights", "evaluate.clip", "distill.regression.decoder"),
    } <= set(TEXTS)


def test_nothing_printed_or_written_has_the_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "settings.yaml"
    monkeypatch.setenv("DMD_CONFIG", str(file))
    run = ["--run", str(tmp_path / "run")]
    file.write_text("")
    for uri in URIS:
        for words in (
            ["--teacher.output", uri],
            [f"--s3.endpoint={uri}"],
            ["--s3.endpoint", uri, "--dry-run"],
            ["--s3.endpont", uri],
            ["--seed", uri],
            [uri],
        ):
            assert main(Job(sample, writes=("sample",)), [*run, *words]) == 2
        file.write_text(f"s3: {{endpoint: ['{uri}'], x: 1}}\nnew: '{uri}'\n")
        assert main(Job(sample), run) == 2
        file.write_text("")
    told = capfd.readouterr()
    assert SECRET not in told.out + told.err and told.err.count("\n") == 7 * len(URIS)
    assert [path.name for path in tmp_path.rglob("*")] == ["settings.yaml"]


def test_an_endpoint_without_a_scheme_has_them_too() -> None:
    with pytest.raises(ValidationError, match="s3.endpoint: has credentials"):
        Config(s3=S3Config(endpoint=f"user:{SECRET}@host:9000"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("s3.endpoint", "http://minio:9000"),
        ("s3.endpoint", "https://[::1]:9000/store"),
        ("teacher.output", f"hf://owner/name@{40 * '1'}"),
        ("pairs.output", "s3://bucket/me@home/a:b?token"),
        ("run", "runs/user:password@home"),
        ("distill.start_from", "gs://bucket/token=3/run"),
    ],
)
def test_other_uris_stay(name: str, value: str) -> None:
    Config.model_validate(tree_of(name, value))


def test_an_error_of_elsewhere_is_printed_without_credentials(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def job(_: Config) -> None:
        raise UserError(f"no proxy at http://me:{SECRET}@host:80/,\nsorry\x1b[2J")

    assert main(Job(job), ["--config", "/dev/null"]) == 2
    assert capsys.readouterr().err == "no proxy at http://***@host:80/, sorry?[2J\n"


SIZES = [{"size": [16, 16], "weight": 2}, {"size": [24, 16]}]


@pytest.mark.parametrize(
    ("teacher", "distill", "told"),
    [
        ({"image_size": [16, 24]}, {}, r"teacher\.image_size: \[16, 24\] is none of teacher\.buck"),
        ({"buckets": [*SIZES, *SIZES[1:]]}, {}, r"teacher\.buckets: \[24, 16\] stands twice"),
        ({"kind": "gaussian"}, {}, r"teacher\.buckets: a gaussian makes images of one shape"),
        ({"prompt_images": ["photo"]}, {}, r"teacher\.buckets: 2 sizes, and images beside prompts"),
        ({}, {"gan": {"real": "data"}}, r"gan\.real: data are images of one size, .* use encoded"),
        ({"buckets": [{"size": [16]}]}, {}, "at least 2"),
        ({"buckets": [{"size": [16, 16], "weight": 0}]}, {}, "greater than 0"),
    ],
)
def test_sizes_that_do_not_agree_are_refused(teacher, distill, told) -> None:
    tree = {"teacher": {"buckets": SIZES, **teacher}, "distill": distill}
    with pytest.raises(ValidationError, match=told):
        Config.model_validate(tree)


def test_one_of_the_buckets_is_that_of_pictures_and_the_first_stands_for_the_teacher() -> None:
    for size in (None, 16, [16, 16], [24, 16]):
        teacher = Config.model_validate({"teacher": {"buckets": SIZES, "image_size": size}}).teacher
        assert teacher.first_size == 16 and teacher.sizes == (16, (24, 16))
