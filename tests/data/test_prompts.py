"""Prompts from every kind of file that may hold them."""

from pathlib import Path

import boto3
import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto import mock_aws

from pipeline.config import Config, S3Config
from pipeline.data import s3
from pipeline.data.fetch import fetch_inputs
from pipeline.data.prompts import read_prompts
from pipeline.utils.errors import UserError

PROMPTS = ["a cat", "zwei Hunde, grün", "a cat"]


def asked(path: object) -> Config:
    return Config.model_validate({"teacher": {"prompts": str(path)}})


def text(folder: Path) -> Path:
    (folder / "p.txt").write_text("\n".join([PROMPTS[0], "", f"  {PROMPTS[1]} ", PROMPTS[2], ""]))
    return folder / "p.txt"


def csv(folder: Path) -> Path:
    rows = [f'{number},"{prompt}"' for number, prompt in enumerate(PROMPTS)]
    (folder / "p.csv").write_text("\n".join(["id,Caption", *rows]) + "\n")
    return folder / "p.csv"


def parquet(folder: Path) -> Path:
    table = pa.table({"id": [1, 2, 3, 4], "text": [*PROMPTS, None], "width": [8, 8, 8, 8]})
    pq.write_table(table, folder / "p.parquet")
    return folder / "p.parquet"


def dataset(folder: Path) -> Path:
    datasets.Dataset.from_dict({"prompt": PROMPTS}).save_to_disk(folder / "set")
    return folder / "set"


def hub_folder(folder: Path) -> Path:
    (folder / "hub" / "data").mkdir(parents=True)
    for number, prompt in enumerate(PROMPTS):
        name = f"train-{number:05d}-of-00003.parquet"
        pq.write_table(pa.table({"prompt": [prompt]}), folder / "hub" / "data" / name)
    return folder / "hub"


@pytest.mark.parametrize("kind", [text, csv, parquet, dataset, hub_folder])
def test_every_kind_gives_the_same_prompts(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = asked(kind(tmp_path))
    assert read_prompts(config.teacher.prompts, config.s3) == PROMPTS
    local = fetch_inputs(config).teacher.prompts
    assert local == fetch_inputs(asked(text(tmp_path))).teacher.prompts, "one copy of one content"
    assert Path(local).read_text().splitlines()[0] == '"a cat"'


def test_prompts_in_a_bucket(tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        s3._connect.cache_clear()
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        client.upload_file(str(parquet(tmp_path)), "bucket", "sets/p.parquet")
        assert read_prompts("s3://bucket/sets/p.parquet", S3Config()) == PROMPTS
        assert read_prompts("s3://bucket/sets", S3Config()) == PROMPTS
    s3._connect.cache_clear()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "p.txt",
            b"\n \n",
            "teacher.prompts: no prompts in .*p.txt; give a file that ends",
        ),
        ("p.txt", b"\xff\xfe", "teacher.prompts: cannot read .*p.txt: .*utf-8"),
        ("p.csv", b"id,name\n1,x\n", "p.csv has no column prompt, caption, text; it has id, name"),
        ("p.parquet", b"none", "teacher.prompts: cannot read .*p.parquet"),
        ("p.docx", b"", "teacher.prompts: no prompts in .*p.docx; give a file that ends"),
        ("there.txt", None, "teacher.prompts: there is no .*there.txt"),
    ],
)
def test_what_cannot_be_read_is_one_clear_error(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_prompts(str(tmp_path / name), S3Config())
