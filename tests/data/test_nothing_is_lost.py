"""Random sources: what is listed and what is counted as left out are together what is there."""

import io
import re
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.sources.left_out import is_hidden
from pipeline.data.sources.source import Source
from pipeline.utils.errors import UserError
from tests.fixtures.image_sets import add
from tests.fixtures.listings import IMAGE, S3, left_out, write

ENDS = (".png", ".JPG", ".txt", ".json", ".svg", ".mask.png", "")
names = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(("", "a/", "a/b/", ".git/", "_temporary/0/")),
        st.sampled_from(("x", "y", "img_v1.5_2", "ünï", "._x", "_x")),
        st.sampled_from(ENDS),
    ),
)
texts = st.sampled_from(("a cat", "", " \n", "\ufeffzwei Hunde"))
some = st.dictionaries(names, texts, max_size=8)
rows = st.lists(st.one_of(st.none(), texts), max_size=5)
kept = some.map(lambda found: {**found, "kept.png": "", "kept.txt": "a cat"})
tars = st.dictionaries(st.sampled_from(("p.tar", "q/r.TAR", ".s.tar")), kept, min_size=1)
tables = st.dictionaries(st.sampled_from(("t.parquet", "q/u.PARQUET")), rows, min_size=1)
none = st.just({})
TREES = {
    "image": st.fixed_dictionaries({"files": kept, "tars": none, "tables": none}),
    "tar": st.fixed_dictionaries({"files": some, "tars": tars, "tables": none | tables}),
    "Parquet": st.fixed_dictionaries({"files": some, "tars": none, "tables": tables}),
}


def content(name: str, text: str) -> bytes:
    if name.endswith((".png", ".JPG")):
        return IMAGE
    return (f'{{"caption": "{text.strip()}"}}' if name.endswith(".json") else text).encode()


def save(folder: Path, tree: dict) -> None:
    for name, text in tree["files"].items():
        write(folder / name, content(name, text))
    for name, found in tree["tars"].items():
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as archive:
            for each, text in found.items():
                add(archive, each, content(each, text))
        write(folder / name, data.getvalue())
    for name, captions in tree["tables"].items():
        table = pa.table(
            {
                "image": pa.array([IMAGE] * len(captions), pa.binary()),
                "text": pa.array(captions, pa.string()),
            }
        )
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / name)


def held(tree: dict, kind: str) -> int:
    """Things there: of a container that is read what it holds, of any other file the file."""
    count = len(tree["files"])
    for name, found in tree["tars"].items():
        count += len(found) if kind == "tar" and not is_hidden(name) else 1
    return count + sum(len(each) if kind == "Parquet" else 1 for each in tree["tables"].values())


def keys(found: dict[str, str], first_dot: bool) -> dict[str, set[str]]:
    """Key of a sample -> the endings of what is there of it, but for what is hidden."""
    known: dict[str, set[str]] = {}
    for name in found:
        stem, end = re.fullmatch(
            r"(.*?/?[^/]*?)((?:\.mask)?\.[a-zA-Z]+)?" if first_dot else r"(.*?)(\.[a-zA-Z]+)?", name
        ).groups()
        if not is_hidden(name.rpartition("/")[2] if first_dot else name):
            known.setdefault(stem, set()).add((end or "").lower())
    return known


def used(tree: dict, kind: str) -> int:
    """Files and members that are read as the captions of images."""
    if kind == "image":
        images = {".png", ".jpg"}
        return sum(
            ".txt" in ends and bool(ends & images) for ends in keys(tree["files"], 0).values()
        )
    groups = [keys(each, True) for name, each in tree["tars"].items() if not is_hidden(name)]
    return sum(
        bool(ends & {".png", ".jpg"}) and bool(ends & {".txt", ".json"})
        for each in groups
        for ends in each.values()
    )


@pytest.mark.parametrize("wanted", ["nothing", "captions"])
@pytest.mark.parametrize("kind", TREES)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_listed_and_left_out_are_all_that_is_there(
    kind: str, wanted: str, data: st.DataObject
) -> None:
    tree = data.draw(TREES[kind])
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("builtins.print", lambda *words, **_: printed.append(" ".join(words)))
        save(Path(folder), tree)
        try:
            source = Source(folder, S3, "encode.source")
            listed = len(source.table(wanted, None, skip=True))
        except UserError as error:
            assert re.search("no images|hold no images", str(error)), error
            return
        line = left_out("\n".join(printed))
    reported = int(line.split()[0]) if line else 0
    read = used(tree, source.kind) if wanted == "captions" and source.kind != "Parquet" else 0
    assert listed + reported + read == held(tree, source.kind), (source.kind, line)
