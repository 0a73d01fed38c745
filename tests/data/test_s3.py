"""Laws of the S3 store, on moto's S3 in this process."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import boto3
import botocore.client
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    CredentialRetrievalError,
    IncompleteReadError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)

from pipeline.config import S3Config
from pipeline.data import s3, shards
from pipeline.data.ranges import ATTEMPTS
from pipeline.data.reader import PairReader
from pipeline.data.s3 import S3Store
from pipeline.data.storage import Storage, probe
from pipeline.utils import scratch
from pipeline.utils.errors import UserError


@pytest.fixture
def store(s3_store: Storage) -> Storage:
    return s3_store


def answer(monkeypatch, operation: str, *replies) -> list[dict]:
    """Let the next calls of an operation meet these errors, or None for the real answer."""
    real, queue, calls = botocore.client.BaseClient._make_api_call, list(replies), []

    def call(self, name, arguments):
        if name == operation:
            calls.append(arguments)
            if queue and (reply := queue.pop(0)) is not None:
                raise reply
        return real(self, name, arguments)

    monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", call)
    return calls


def refusal(status: int, code: str) -> ClientError:
    reply = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(reply, "any")


def test_put_makes_the_object_and_never_overwrites(store):
    assert store.put("x.parquet", b"one") is True
    assert store.put("x.parquet", b"two") is False
    assert store.get("x.parquet") == b"one"
    assert store.uri("x.parquet") == "s3://bucket/some/set/x.parquet"
    assert list(store.list()) == ["x.parquet"]


def test_list_is_paged_sorted_and_of_this_prefix_alone(store):
    for number in range(1100):
        store.put(f"b-{number:04d}", b"")
    store.put("a", b"")
    S3Store("bucket", "some/").put("set-2", b"")
    S3Store("bucket", "some/set/deeper/", region="us-east-1").put("c", b"")
    assert list(store.list("b-")) == [f"b-{number:04d}" for number in range(1100)]
    assert len(store.list()) == 1101


def test_requests_are_counted(store):
    s3.REQUESTS.clear()
    probe(store)
    store.list()
    assert s3.REQUESTS == {"PutObject": 2, "DeleteObject": 1, "ListObjectsV2": 1}


def test_probe_leaves_nothing(store):
    probe(store)
    assert store.list("") == {}
    assert "Contents" not in boto3.client("s3").list_objects_v2(Bucket="bucket")


def test_a_file_reads_only_what_is_asked_for(store, monkeypatch):
    store.put("x", bytes(range(100)))
    calls = answer(monkeypatch, "GetObject")
    with store.open("x") as file:
        assert file.size() == 100
        file.seek(10)
        assert file.read(5) == bytes(range(10, 15))
        assert file.read() == bytes(range(15, 100))
        assert file.read(1) == b""
    assert [call["Range"] for call in calls] == ["bytes=10-14", "bytes=15-99"]


def test_a_set_is_written_closed_and_read_there(store, tiny):
    plan = tiny.plan()
    shards.open_plan(store, plan)
    for index in range(2):
        shards.write(store, plan, index, tiny.batch(plan, index))
    manifest = shards.close(store, plan, 2 * plan.shard_size)
    assert shards.read_manifest(store) == manifest
    shards.check_stored(store, manifest)
    with store.open(manifest.shards[0].name) as file:
        assert pq.read_table(file).num_rows == plan.shard_size
    assert len(PairReader(store, 0, 4).batch(0).ids) == 4


def test_another_writer_at_the_same_moment_is_waited_for(store, monkeypatch):
    conflict = refusal(409, "ConditionalRequestConflict")
    calls = answer(monkeypatch, "PutObject", conflict, conflict, None)
    assert store.put("x", b"1") is True
    assert len(calls) == 3


def test_a_body_that_breaks_off_is_read_again(store, monkeypatch):
    store.put("x", b"12")
    broken = IncompleteReadError(actual_bytes=1, expected_bytes=2)
    calls = answer(monkeypatch, "GetObject", broken, broken, None)
    assert store.get("x") == b"12"
    assert len(calls) == 3
    answer(monkeypatch, "GetObject", *[broken] * ATTEMPTS)
    with pytest.raises(UserError, match="cannot read s3://bucket/some/set/x: .*run the same"):
        store.get("x")


@pytest.mark.parametrize(
    ("status", "code", "way_out"),
    [
        (403, "AccessDenied", "credentials"),
        (404, "NoSuchBucket", "bucket's name"),
        (301, "PermanentRedirect", "s3.region"),
        (501, "NotImplemented", "another store"),
        (503, "SlowDown", "the store is busy.* run the same command again"),
    ],
)
@pytest.mark.parametrize(
    ("verb", "operation"),
    [
        ("write", "PutObject"),
        ("read", "GetObject"),
        ("list", "ListObjectsV2"),
        ("delete", "DeleteObject"),
    ],
)
def test_refusals_name_object_reason_and_way_out(
    store, monkeypatch, status, code, way_out, verb, operation
):
    does = {
        "write": lambda: store.put("x", b""),
        "read": lambda: store.get("x"),
        "list": lambda: store.list("x"),
        "delete": lambda: store.delete("x"),
    }
    answer(monkeypatch, operation, refusal(status, code))
    with pytest.raises(
        UserError, match=f"cannot {verb} s3://bucket/some/set/x: {code}; .*{way_out}"
    ):
        does[verb]()


@pytest.mark.parametrize(
    ("status", "code", "way_out"),
    [
        (400, "ExpiredToken", "have run out: get new ones"),
        (400, "TokenRefreshRequired", "have run out: get new ones"),
        (403, "RequestTimeTooSkewed", "set this machine's clock"),
        (403, "RequestLimitExceeded", "the store is busy"),
        (400, "ThrottlingException", "the store is busy"),
        (403, "InvalidAccessKeyId", "check AWS_ACCESS_KEY_ID"),
        (400, "InvalidToken", "check AWS_SESSION_TOKEN"),
        (403, "SignatureDoesNotMatch", "check AWS_SECRET_ACCESS_KEY"),
        (403, "AccountProblem", "ask its owner"),
        (403, "QuotaExceeded", "raise the quota"),
        (403, "InvalidObjectState", "restore it first"),
        (403, "AccessDenied", "credentials and their rights"),
        (403, "SomethingNew", "credentials and their rights"),
        (400, "AuthorizationHeaderMalformed", "s3.region to the bucket's$"),
        (400, "SomethingNew", "s3.region to the bucket's, and check the credentials"),
        (500, "InternalError", "run the same command again$"),
        (501, "NotImplemented", "use another store$"),
    ],
)
def test_the_way_out_follows_from_the_code_before_the_status(
    store, monkeypatch, status, code, way_out
):
    answer(monkeypatch, "PutObject", refusal(status, code))
    with pytest.raises(
        UserError, match=f"cannot write s3://bucket/some/set/x: {code}; .*{way_out}"
    ):
        store.put("x", b"")


@pytest.mark.parametrize(
    ("status", "way_out"), [(400, "s3.region"), (403, "rights"), (301, "s3.region")]
)
def test_a_head_has_a_status_alone(store, monkeypatch, status, way_out):
    answer(monkeypatch, "HeadObject", refusal(status, f"{status}"))
    with pytest.raises(
        UserError, match=f"cannot read s3://bucket/some/set/x: {status}; .*{way_out}"
    ):
        store.open("x")


@pytest.mark.parametrize(
    "error",
    [
        UnauthorizedSSOTokenError(),
        TokenRetrievalError(provider="sso", error_msg="Token has expired"),
        CredentialRetrievalError(provider="custom-process", error_msg="none"),
    ],
)
def test_credentials_that_cannot_be_got_are_no_fault_of_the_network(store, monkeypatch, error):
    answer(monkeypatch, "PutObject", error)
    with pytest.raises(UserError, match="cannot write .*AWS_ACCESS_KEY_ID") as caught:
        store.put("x", b"")
    assert "network" not in str(caught.value)


def test_missing_bucket_credentials_and_profile_are_named(store, monkeypatch):
    with pytest.raises(UserError, match="NoSuchBucket"):
        probe(Storage("s3://elsewhere", S3Config(region="us-east-1"), "pairs.output"))
    with pytest.raises(UserError, match="nobody.*s3.profile"):
        probe(Storage("s3://bucket", S3Config(profile="nobody"), "pairs.output"))
    with pytest.raises(UserError, match="s3.endpoint"):
        probe(Storage("s3://bucket", S3Config(endpoint="no-url"), "pairs.output"))


def test_without_credentials_the_ways_to_give_some_are_named(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3._connect.cache_clear()
    with pytest.raises(UserError, match="AWS_ACCESS_KEY_ID.*s3.profile.*role"):
        probe(Storage("s3://bucket", S3Config(region="us-east-1"), "pairs.output"))


def test_a_store_travels_and_shows_no_secret(store):
    store.put("x", b"1")
    travelled = pickle.loads(pickle.dumps(store))
    assert travelled.get("x") == b"1"
    assert b"nobody-may-see" not in pickle.dumps(store) and "nobody" not in repr(store)


def test_one_of_many_writers_wins(store):
    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(lambda n: store.put("x", bytes([n])), range(8)))
    assert store.get("x") == bytes([won.index(True)])


def test_a_broken_look_at_the_size_is_repeated_and_a_missing_object_is_named(store, monkeypatch):
    store.put("x", b"12")
    calls = answer(monkeypatch, "HeadObject", *[ConnectionClosedError(endpoint_url="u")] * 2, None)
    with store.open("x") as file:
        assert file.read() == b"12"
    assert len(calls) == 3
    for read in (store.get, store.open):
        with pytest.raises(UserError, match="set/gone: no such object; run the job that makes it"):
            read("gone")


def test_a_probe_that_a_killed_job_left_is_swept_and_nothing_else(bucket):
    store = Storage("s3://bucket/set", S3Config(region="us-east-1"), "pairs.output")
    kept = [".probe", ".probe-0123", "probe.ray-dmd-0123", ".hidden", "deep/.notes.txt"]
    for name in (*kept, scratch.name("probe")):
        store.put(name, b"1")
    store.sweep()
    assert sorted(store.tree()) == sorted(kept)
