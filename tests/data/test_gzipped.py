"""Compressed tars: unpacked once, whoever asks for them, and never taken for others."""

import gzip
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.data.local import LocalStore
from pipeline.data.sources import gzipped
from pipeline.data.sources.gzipped import unpacked
from pipeline.utils.errors import UserError
from tests.fixtures.listings import IMAGE, S3, left_out, listed, save, tar, write


@pytest.mark.parametrize("name", ["a.tar.gz", "a.TGZ", "a.tar"])
def test_a_compressed_tar_is_unpacked_once(name, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plain = tar(tmp_path / "plain.tar", ("1.png", IMAGE), ("1.txt", "a"), ("2.png", IMAGE[:-1]))
    packed = write(tmp_path / "source" / name, gzip.compress(plain.read_bytes()))
    for place, source in enumerate((packed, packed.parent)):
        found = listed(tmp_path / f"{place}", source, "nothing")
        one, two = found.samples(range(2))
        reader = found.reader(str(source), S3)
        assert (reader.read(two), reader.read(one)) == (IMAGE[:-1], IMAGE)
        (copy,) = (tmp_path / "cache" / "ray-dmd").glob("*.tar")
        made = copy.stat().st_mtime_ns
    assert copy.read_bytes() == plain.read_bytes() and copy.stat().st_mtime_ns == made


@pytest.mark.parametrize("cut", [slice(0, -1), slice(0, 30), slice(5, None)])
def test_a_compressed_tar_that_is_damaged_is_named(cut, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plain = tar(tmp_path / "plain.tar", ("1.png", IMAGE))
    source = write(tmp_path / "source" / "a.tgz", gzip.compress(plain.read_bytes())[cut])
    with pytest.raises(UserError, match=r"encode.source: cannot read .*a.tgz .*fetch the file"):
        listed(tmp_path, source)
    assert {path.suffix for path in (tmp_path / "cache").rglob("*.*")} <= {".lock"}


def test_many_unpack_a_tar_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plain = tar(tmp_path / "plain.tar", ("1.png", IMAGE)).read_bytes()
    store = LocalStore(write(tmp_path / "a.tgz", gzip.compress(plain)).parent)
    with unpacked(store, "a.tgz")() as file:
        assert file.read() == plain
    (copy,) = (tmp_path / "cache" / "ray-dmd").glob("*.tar")
    copy.unlink()
    written, write_it = [], gzipped.write_pieces

    def slow(*given):
        written.append(given)
        time.sleep(0.05)
        write_it(*given)

    monkeypatch.setattr(gzipped, "write_pieces", slow)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: unpacked(store, "a.tgz"), range(8)))
    assert len(written) == 1 and copy.read_bytes() == plain


def test_an_archive_that_changed_is_unpacked_anew(tmp_path, monkeypatch):
    """Also one of the same size that ends in the same bytes, as an empty member does."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store, end = LocalStore(tmp_path), gzip.compress(b"", mtime=0)
    for text in (b"one", b"two"):
        write(tmp_path / "a.tgz", gzip.compress(text, mtime=0) + end)
        with unpacked(store, "a.tgz")() as file:
            assert file.read() == text


def test_a_copy_that_is_gone_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plain = tar(tmp_path / "plain.tar", ("1.png", IMAGE)).read_bytes()
    found = listed(tmp_path, source := write(tmp_path / "a.tgz", gzip.compress(plain)), "nothing")
    reader, samples = found.reader(str(source), S3), found.samples(range(1))
    assert reader.read(samples[0]) == IMAGE
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(UserError, match=r"encode.source: cannot read .*a.tgz"):
        reader.read(samples[0])


def test_the_archive_beside_what_was_unpacked_is_left_out(tmp_path, capsys):
    packed = gzip.compress(tar(tmp_path / "plain.tar", ("x.png", IMAGE)).read_bytes())
    save(tmp_path / "files", "1.png", "2.png")
    shutil.copytree(tmp_path / "files", tmp_path / "tars")
    tar(tmp_path / "tars" / "0.tar", ("1.png", IMAGE))
    for name, count in (("files", 2), ("tars", 1)):
        write(tmp_path / name / "backup.tar.gz", packed)
        assert listed(tmp_path / f"{name}-set", tmp_path / name, "nothing").count == count
        assert "1 .gz (backup.tar.gz)" in left_out(capsys.readouterr().out)
