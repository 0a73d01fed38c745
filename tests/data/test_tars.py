"""Laws of WebDataset's tars: every member is read, or counted, or refused by name."""

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from pipeline.data.sources import tars
from pipeline.data.sources.sample import THREADS
from pipeline.utils.errors import UserError
from tests.fixtures.image_sets import add, content, items, picture, save_tars
from tests.fixtures.listings import IMAGE, S3, annotations, left_out, listed, save, tar, write


def captions(tmp_path: Path, source: Path, wanted="captions", classes=None) -> list:
    return list(annotations(tmp_path, source, wanted, classes).values())


def test_a_key_may_have_dots_before_digits_and_fields_are_counted(tmp_path, capsys):
    keys = ("0001", "img_v1.5_0002", "a.b/2.0.1", "../.data/x")
    members = [
        (f"{key}.{end}", IMAGE if end == "png" else key) for key in keys for end in ("png", "txt")
    ]
    source = tar(tmp_path / "a.tar", *members, ("0001.seg.png", IMAGE), ("0001.JPG", IMAGE))
    assert captions(tmp_path, source) == list(keys)
    assert left_out(capsys.readouterr().out) == (
        "2 others left out: 2 of other fields (the first 0001.seg.png)"
    )


def test_members_of_a_key_need_not_lie_side_by_side(tmp_path):
    names = ["1.png", "2.png", "1.txt", "2.txt"]
    source = tar(tmp_path / "a.tar", *((name, IMAGE if "png" in name else name) for name in names))
    assert captions(tmp_path, source) == ["1.txt", "2.txt"]


def test_hard_links_are_read_and_others_are_counted(tmp_path, capsys):
    folder = save(tmp_path / "files", "1.png")
    (folder / "1.txt").write_text("one")
    (folder / "2.png").hardlink_to(folder / "1.png")
    (folder / "2.txt").hardlink_to(folder / "1.txt")
    (folder / "3.png").symlink_to(folder / "1.png")
    source = tmp_path / "a.tar"
    subprocess.run(["tar", "--sort=name", "-cf", source, "-C", folder, "."], check=True)
    with tarfile.open(source, "a") as archive:
        link = tarfile.TarInfo("4.png")
        link.type, link.linkname = tarfile.LNKTYPE, "gone.png"
        archive.addfile(link)
    found = listed(tmp_path, source)
    samples = found.samples(range(2))
    assert [each.annotation for each in samples] == ["one", "one"] and found.count == 2
    reader = found.reader(str(source), S3)
    assert [reader.read(each) for each in samples] == [IMAGE, IMAGE]
    assert left_out(capsys.readouterr().out) == (
        "2 others left out: 1 linked to a path (3.png), 1 linked to nowhere (4.png)"
    )


def test_joined_tars_are_read_to_their_end(tmp_path):
    images = [content(picture(number)) for number in range(3)]
    parts = [
        tar(tmp_path / f"{n}.tar", (f"{n}.png", image), (f"{n}.txt", f"{n}"))
        for n, image in enumerate(images)
    ]
    source = write(tmp_path / "all" / "a.tar", b"".join(part.read_bytes() for part in parts))
    found = listed(tmp_path, source)
    samples = found.samples(range(3))
    assert [each.annotation for each in samples] == ["0", "1", "2"]
    assert [found.reader(str(source), S3).read(each) for each in samples] == images
    for tail in (b"and more", parts[0].read_bytes()[:700]):
        torn = write(tmp_path / "torn" / "a.tar", parts[1].read_bytes() + tail)
        with pytest.raises(UserError, match="cannot read .*a.tar"):
            listed(tmp_path / "2", torn)


def test_what_is_no_sample_is_counted(tmp_path, capsys):
    source = tmp_path / "a.tar"
    with tarfile.open(source, "w") as archive:
        folder = tarfile.TarInfo("part.1")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        add(archive, "README", b"text")
        add(archive, "./part.1/._x.png", b"\0\5\x16\7")
        add(archive, "./part.1/x.png", IMAGE)
        add(archive, "./part.1/x.txt", b"a")
        add(archive, "part.1/x.json", b"not read, for there is x.txt")
        add(archive, "part.1/y.svg", b"1")
        add(archive, b"caf\xe9.tif2".decode(errors="surrogateescape"), b"1")
        queue = tarfile.TarInfo("z.png")
        queue.type = tarfile.FIFOTYPE
        archive.addfile(queue)
    found = listed(tmp_path, source)
    (sample,) = found.samples(range(1))
    assert sample.annotation == "a" and found.count == 1
    assert found.reader(str(source), S3).read(sample) == IMAGE
    assert left_out(capsys.readouterr().out) == (
        "6 others left out: 1 hidden (part.1/._x.png), 1 of a special kind (z.png), 1 without an "
        r"ending (README), 1 .json (part.1/x.json), 1 .svg (part.1/y.svg), 1 .tif2 (caf\xe9.tif2)"
    )


def test_annotations_have_one_rule_in_txt_cls_and_json(tmp_path):
    text = (("1.png", IMAGE), ("1.txt", "\ufeff one\n"), ("2.png", IMAGE))
    said = ("2.json", b'\xef\xbb\xbf{"Caption": "a\xe2\x80\xa8b"}')
    assert captions(tmp_path, tar(tmp_path / "a.tar", *text, said)) == ["one", "a\u2028b"]
    labels = (("1.png", IMAGE), ("1.cls", "3.0\n"), ("2.png", IMAGE), ("2.json", '{"label": 4.0}'))
    assert captions(tmp_path / "2", tar(tmp_path / "b.tar", *labels), "labels", 10) == [3, 4]


@pytest.mark.parametrize(
    ("members", "wanted", "message"),
    [
        ([("1.jpg", IMAGE), ("1.txt", "a"), ("./1.jpg", IMAGE)], "captions", "has 1.jpg twice"),
        ([("1.jpg", IMAGE), ("1.JPG", IMAGE)], "nothing", "has 1.JPG twice"),
        ([("1.jpg", IMAGE), ("1.json", '["a"]')], "captions", "1.json in .*no JSON object, but li"),
        ([("1.jpg", IMAGE), ("1.txt", b"caf\xe9")], "captions", "1.txt in .*line 1 has the byte"),
        ([("1.jpg", IMAGE), ("1.cls", "true")], "labels", "1.cls in .* label 'true', not a whole"),
        (
            [("1.jpg", IMAGE), ("1.json", '{"text": ["a", 1]}')],
            "captions",
            "the caption '1', not t",
        ),
        ([("1.jpg", IMAGE), ("1.json", '{"text": "", "Text": "a"}')], "captions", "two columns"),
        ([("a.b.jpg", IMAGE)], "nothing", r"no images, but 1 of other fields \(a.b.jpg\)"),
    ],
)
def test_what_says_two_things_or_nothing_is_refused_by_name(members, wanted, message, tmp_path):
    with pytest.raises(UserError, match=f"encode.source: .*{message}"):
        listed(tmp_path, tar(tmp_path / "a.tar", *members), wanted, 10)


class Counted(io.RawIOBase):
    """A file that notes each read."""

    def __init__(self, raw, reads):
        self._raw, self._reads = raw, reads

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, *place):
        return self._raw.seek(*place)

    def tell(self):
        return self._raw.tell()

    def readinto(self, buffer):
        self._reads.append(len(buffer))
        data = self._raw.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def test_a_remote_tar_is_listed_with_few_requests(tmp_path, monkeypatch):
    source = save_tars(tmp_path / "source", items(2 * THREADS))
    reads, plain = [], tars.io.BufferedReader
    monkeypatch.setattr(
        tars.io, "BufferedReader", lambda raw, size: plain(Counted(raw, reads), size)
    )
    listed(tmp_path, source)
    assert 0 < len(reads) <= 2 * 4


def test_a_tar_that_is_cut_short_anywhere_is_refused(tmp_path):
    whole = (save_tars(tmp_path / "source", items(5)) / "00000.tar").read_bytes()
    end = whole.rindex(b"\0ustar") // 512 * 512  # of the last header
    for size in (512, 1024, end - 512, end, end + 100, end + 512, end + 700):
        path = write(tmp_path / f"{size}" / "a.tar", whole[:size])
        with pytest.raises(UserError, match="cannot read .*a.tar .*fetch the file again"):
            listed(tmp_path / f"{size}", path)


def test_a_tar_cut_after_it_was_listed_is_refused(tmp_path):
    source = save_tars(tmp_path / "source", items(5))
    found = listed(tmp_path, source)
    cut = source / "00000.tar"
    write(cut, cut.read_bytes()[:1100])
    with pytest.raises(UserError, match="00000.tar has become shorter since"):
        found.reader(str(source), S3).read(found.samples(range(1, 2))[0])
