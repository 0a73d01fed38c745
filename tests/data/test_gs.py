"""Laws of the Google Cloud store, on an emulator that is taught the precondition we use."""

import builtins
import sys
from http import HTTPStatus

import pyarrow.parquet as pq
import pytest
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects
from gcp_storage_emulator.server import create_server
from google.auth.exceptions import DefaultCredentialsError, RefreshError
from google.cloud.storage import Blob
from google.cloud.storage.exceptions import DataCorruption

from pipeline.config import S3Config
from pipeline.data import gs, ranges, shards
from pipeline.data.fetch import fetch
from pipeline.data.gs import GSStore
from pipeline.data.reader import PairReader
from pipeline.data.storage import Storage, probe
from pipeline.utils.errors import UserError


def conditional(upload):
    """The emulator's upload, which refuses to overwrite where it is told so, as Google's does."""

    def checked(request, response, storage):
        if request.query.get("ifGenerationMatch") == ["0"]:
            try:
                storage.get_file_obj(request.params["bucket_name"], request.data["meta"]["name"])
                response.status = HTTPStatus.PRECONDITION_FAILED
                return
            except NotFound:
                pass
        upload(request, response, storage)

    return checked


UNCONDITIONAL = objects._multipart_upload


@pytest.fixture(scope="module")
def address():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "_multipart_upload", conditional(UNCONDITIONAL))
        with create_server("localhost", 0, in_memory=True, default_bucket="bucket") as server:
            yield f"http://localhost:{server._api._httpd.server_port}"


@pytest.fixture
def store(address, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
    gs._connect.cache_clear()
    found = Storage("gs://bucket/some/set/", S3Config(), "pairs.output")
    yield found
    for name in found.tree():
        found.delete(name)
    gs._connect.cache_clear()


def test_put_makes_the_object_and_never_overwrites(store):
    assert store.put("x.parquet", b"one") is True
    assert store.put("x.parquet", b"two") is False
    assert store.get("x.parquet") == b"one"
    assert store.uri("x.parquet") == "gs://bucket/some/set/x.parquet"
    assert store.list() == {"x.parquet": 3}


def test_a_store_without_the_precondition_is_found_out(store, monkeypatch):
    probe(store)
    assert store.tree() == {}
    monkeypatch.setattr(objects, "_multipart_upload", UNCONDITIONAL)
    with pytest.raises(UserError, match="does not keep an object from being overwritten"):
        probe(store)


def test_names_are_of_this_prefix_alone(store):
    for name in ("b", "a", ".hidden", "deeper/c"):
        store.put(name, b"1")
    GSStore("bucket", "some/").put("set-2", b"")
    assert list(store.list()) == ["a", "b"]
    assert list(store.tree()) == [".hidden", "a", "b", "deeper/c"]
    store.delete("a")
    store.delete("a")
    assert list(store.list()) == ["b"]


def test_a_set_is_written_closed_and_read_there(store, tiny):
    plan = tiny.plan()
    shards.open_plan(store, plan)
    for index in range(2):
        shards.write(store, plan, index, tiny.batch(plan, index))
    manifest = shards.close(store, plan, 2 * plan.shard_size)
    assert shards.read_manifest(store) == manifest
    with store.open(manifest.shards[0].name) as file:
        assert pq.read_table(file).num_rows == plan.shard_size
    assert len(PairReader(store, 0, 4).batch(0).ids) == 4


def test_files_go_there_and_back(store, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "weights"
    for content in (b"one", b"other"):
        file.write_bytes(content)
        before = store.tree()
        store.upload(file, "folder/weights")
        assert store.tree() != before
        copy = fetch("gs://bucket/some/set", S3Config(), "teacher.output")
        assert (copy / "folder" / "weights").read_bytes() == content


@pytest.mark.parametrize("change", [lambda body: body[:-1], lambda body: body + b"1"])
def test_a_range_of_another_length_is_asked_for_again(store, monkeypatch, change):
    store.put("x", bytes(range(100)))
    real, left = Blob.download_as_bytes, [2]

    def changed(self, **span):
        left[0] -= 1
        return real(self, **span) if left[0] < 0 else change(real(self, **span))

    monkeypatch.setattr(ranges.time, "sleep", lambda _: None)
    monkeypatch.setattr(Blob, "download_as_bytes", changed)
    with store.open("x") as file:
        file.seek(10)
        assert file.read(5) == bytes(range(10, 15))
        left[0] = ranges.ATTEMPTS
        with pytest.raises(UserError, match="set/x: .* bytes, 5 expected; run the same"):
            file.read(5)


def test_a_body_with_another_checksum_is_asked_for_again(store, monkeypatch):
    store.put("x", b"12")
    real, left = Blob.download_as_bytes, [2]

    def corrupt(self, **span):
        left[0] -= 1
        if left[0] >= 0:
            raise DataCorruption(None, "another MD5")
        return real(self, **span)

    monkeypatch.setattr(ranges.time, "sleep", lambda _: None)
    monkeypatch.setattr(Blob, "download_as_bytes", corrupt)
    assert store.get("x") == b"12"
    left[0] = ranges.ATTEMPTS
    with pytest.raises(UserError, match="set/x: another MD5; run the same"):
        store.get("x")


def test_refusals_name_object_reason_and_way_out(store):
    with pytest.raises(UserError, match="gs://bucket/some/set/x: no such object; run the job"):
        store.get("x")
    nowhere = GSStore("no-such-bucket", "")
    with pytest.raises(UserError, match="cannot write gs://no-such-bucket/x: .*bucket's name"):
        nowhere.put("x", b"")
    with pytest.raises(UserError, match="cannot list gs://no-such-bucket/"):
        nowhere.list()


@pytest.mark.parametrize("error", [DefaultCredentialsError("none"), RefreshError("run out")])
def test_without_credentials_the_way_out_is_said(store, monkeypatch, error):
    def none(**_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(gs.storage, "Client", none)
        gs._connect.cache_clear()
        with pytest.raises(UserError, match="no valid credentials; run `gcloud auth"):
            store.put("x", b"")


def test_without_the_library_the_way_out_is_said(store, monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.startswith("google.cloud"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "pipeline.data.gs")
    with pytest.raises(UserError, match="pairs.output: gs:// needs google-cloud-storage"):
        Storage("gs://bucket/x", S3Config(), "pairs.output")
