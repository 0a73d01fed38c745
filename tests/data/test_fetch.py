"""Laws of inputs on S3, on moto's S3 in this process."""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from pipeline.config import Config, S3Config
from pipeline.data import s3
from pipeline.data.fetch import INPUTS, fetch, fetch_inputs, store_folder
from pipeline.data.s3 import S3Store
from pipeline.data.storage import Storage
from pipeline.utils.errors import UserError
from pipeline.utils.files import cache_folder

REGION = S3Config(region="us-east-1")
FILES = {"model_index.json": b"{}", "unet/config.json": b"[1]", "unet/weights": b"7" * 5000}


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """A bucket with a model under some/model/, and an empty cache."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "some-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with mock_aws():
        s3._connect.cache_clear()
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="bucket")
        for name, data in FILES.items():
            client.put_object(Bucket="bucket", Key=f"some/model/{name}", Body=data)
        yield client
    s3._connect.cache_clear()


@pytest.fixture
def downloads(monkeypatch) -> list[str]:
    """Every object that is downloaded."""
    names, plain = [], S3Store.download
    monkeypatch.setattr(
        S3Store,
        "download",
        lambda self, name, path: (names.append(name), plain(self, name, path))[1],
    )
    return names


def test_a_folder_is_copied_once_and_again_when_it_changes(bucket, downloads):
    copy = fetch("s3://bucket/some/model", REGION, "teacher.output")
    assert {n: (copy / n).read_bytes() for n in FILES} == FILES
    assert fetch("s3://bucket/some/model/", REGION, "teacher.output") == copy
    assert sorted(downloads) == sorted(FILES)
    bucket.put_object(Bucket="bucket", Key="some/model/unet/weights", Body=b"8" * 5000)
    changed = fetch("s3://bucket/some/model", REGION, "teacher.output")
    assert changed != copy and (changed / "unet/weights").read_bytes() == b"8" * 5000
    assert (copy / "unet/weights").read_bytes() == b"7" * 5000


def test_of_many_at_once_one_downloads(bucket, downloads):
    with ThreadPoolExecutor(8) as pool:
        copies = pool.map(lambda _: fetch("s3://bucket/some/model", REGION, "x"), range(8))
    assert len(set(copies)) == 1 and sorted(downloads) == sorted(FILES)


def test_a_failed_download_leaves_no_copy(bucket, monkeypatch):
    def fail(self, name, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
        raise UserError("the network is gone")

    with monkeypatch.context() as patch:
        patch.setattr(S3Store, "download", fail)
        with pytest.raises(UserError, match="the network is gone"):
            fetch("s3://bucket/some/model", REGION, "teacher.output")
    assert not [path for path in cache_folder().iterdir() if path.is_dir()]
    copy = fetch("s3://bucket/some/model", REGION, "teacher.output")
    assert (copy / "unet/weights").read_bytes() == FILES["unet/weights"]


def test_every_input_setting_is_replaced_and_local_ones_stay(bucket, tmp_path):
    url = "s3://bucket/some/model"
    tree = {"s3": {"region": "us-east-1"}, "run": str(tmp_path)}
    config = Config.model_validate(
        tree
        | {
            "teacher": {"output": url},
            "evaluate": {"student": f"{url}/unet"},
            "data": {"folder": url},
        }
    )
    local = fetch_inputs(config, *INPUTS)
    assert local.teacher.output == local.data.folder
    for folder in (local.teacher.output, local.evaluate.student):
        assert Path(folder).is_dir() and folder.startswith(str(cache_folder()))
    config = Config.model_validate(tree)
    assert fetch_inputs(config, *INPUTS) is config


def test_what_a_job_does_not_read_is_not_fetched(bucket, tmp_path):
    elsewhere = {"evaluate": {"student": "s3://bucket/not-there-yet"}, "run": str(tmp_path)}
    config = Config.model_validate(elsewhere)
    assert fetch_inputs(config, "teacher", "data") is config


@pytest.mark.parametrize("name", ["/etc/passwd", "unet//weights", "../other", "a/./b"])
def test_a_name_that_leaves_the_folder_is_refused(bucket, downloads, name):
    bucket.put_object(Bucket="bucket", Key=f"some/model/{name}", Body=b"")
    with pytest.raises(UserError, match="teacher.output: .* is no name of a file"):
        fetch("s3://bucket/some/model", REGION, "teacher.output")
    assert downloads == []


def test_a_folder_that_changes_while_it_is_copied_is_refused(bucket, monkeypatch):
    plain = S3Store.download

    def download(self, name, path):
        bucket.put_object(Bucket="bucket", Key="some/model/new", Body=b"1")
        plain(self, name, path)

    monkeypatch.setattr(S3Store, "download", download)
    with pytest.raises(UserError, match="has changed meanwhile; run again"):
        fetch("s3://bucket/some/model", REGION, "teacher.output")


def stored(uri: str, folder: Path, files: dict[str, bytes]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    store_folder(folder, Storage(uri, REGION, "export.output"))


def copied(uri: str) -> dict[str, bytes]:
    copy = fetch(uri, REGION, "evaluate.student")
    return {f"{p.relative_to(copy)}": p.read_bytes() for p in copy.rglob("*") if p.is_file()}


OLD = {"unet/half": b"old half", "unet/weights": b"old", "provenance.json": b"old"}
NEW = {"unet/weights": b"new", "more": b"new", "provenance.json": b"new"}
CALLS = ["put", *["upload"] * len(NEW), *["delete"] * 2]


@pytest.mark.parametrize("last", range(len(CALLS) + 1))
def test_a_stored_folder_is_the_old_one_or_the_new_one_or_refused(
    bucket, tmp_path, monkeypatch, last
):
    """Killed before each of its calls in turn, and run again."""
    uri, calls = "s3://bucket/exports/student", list[str]()
    stored(uri, tmp_path / "files", OLD)

    def counting(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            if len(calls) == last:
                raise KeyboardInterrupt
            calls.append(name)
            return plain(*given)

        return call

    with monkeypatch.context() as patch:
        for name in ("put", "upload", "delete"):
            patch.setattr(S3Store, name, counting(name, getattr(S3Store, name)))
        with pytest.raises(KeyboardInterrupt) if last < len(CALLS) else nullcontext():
            stored(uri, tmp_path / "files", NEW)
    assert calls == CALLS[:last]
    if 0 < last < len(CALLS):
        with pytest.raises(UserError, match=r"evaluate\.student: .* is not complete"):
            copied(uri)
    else:
        assert copied(uri) == (NEW if last else OLD)
    stored(uri, tmp_path / "files", NEW)
    assert copied(uri) == NEW


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/nothing", "teacher.output: there is nothing in s3://bucket/nothing/"),
        ("s3://other/model", "NoSuchBucket.*check the bucket's name"),
        ("ftp://bucket/model", "teacher.output 'ftp://bucket/model': give a local folder, s3://"),
    ],
)
def test_what_cannot_be_fetched_is_one_clear_error(bucket, url, message):
    with pytest.raises(UserError, match=message):
        fetch(url, REGION, "teacher.output")
