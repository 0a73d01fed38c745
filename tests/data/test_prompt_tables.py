"""Prompts in tables of Arrow's types, and in the folders of data sets."""

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import S3Config
from pipeline.data.prompts import read_prompts
from pipeline.utils.errors import UserError

CAT = {"prompt": ["a cat", "a dog"]}


def read(path: object) -> list[str]:
    return list(read_prompts(str(path), S3Config()))


@pytest.mark.parametrize(
    "column",
    [
        pa.array(CAT["prompt"], pa.large_string()),
        pa.array(CAT["prompt"]).dictionary_encode(),
        pa.array(CAT["prompt"], pa.string_view()),
    ],
)
def test_every_type_of_text_is_read(tmp_path, column):
    pq.write_table(pa.table({"prompt": column}), tmp_path / "p.parquet")
    assert read(tmp_path / "p.parquet") == CAT["prompt"]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([["a cat", "one cat"], ["a dog"]], "list<"),
        ([b"a cat", b"a dog"], "binary"),
        ([{"en": "a cat", "de": "eine Katze"}], "struct<"),
        ([1, 2], "int64"),
    ],
)
@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_what_is_no_text_is_refused_by_its_type(tmp_path, values, kind, ending):
    table, path = pa.table({"prompt": values}), tmp_path / f"p.{ending}"
    if ending == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_stream(path, table.schema) as stream:
            stream.write_table(table)
    with pytest.raises(UserError, match=f"the column prompt of .*p.{ending} is {kind}.*, not text"):
        read(path)


def test_a_character_that_no_shard_may_hold_is_refused(tmp_path):
    pq.write_table(pa.table({"prompt": ["a\0cat"]}), tmp_path / "p.parquet")
    with pytest.raises(UserError, match="p.parquet has a prompt with a NUL character"):
        read(tmp_path / "p.parquet")


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_text_that_is_not_utf8_is_refused(tmp_path, ending):
    column = pa.array([b"a cat", b"caf\xe9"]).view(pa.string())
    table, path = pa.table({"prompt": column}), tmp_path / f"p.{ending}"
    if ending == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_stream(path, table.schema) as stream:
            stream.write_table(table)
    with pytest.raises(UserError, match=f"cannot read .*p.{ending} .*; write it again, text as UT"):
        read(path)


def test_nothing_but_the_prompts_is_read(tmp_path, monkeypatch):
    noise = np.random.default_rng(0)
    rows = [noise.bytes(50_000) for _ in range(40)]
    table = pa.table({"image": rows, "prompt": [f"prompt {n}" for n in range(40)]})
    pq.write_table(table, tmp_path / "p.parquet", row_group_size=10)
    asked = []
    plain = pq.ParquetFile.read_row_group

    def read_row_group(self, group, columns=None, **more):
        asked.append((group, columns))
        return plain(self, group, columns=columns, **more)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", read_row_group)
    before = pa.total_allocated_bytes()
    peak = pa.default_memory_pool().max_memory()
    assert len(read(tmp_path / "p.parquet")) == 40
    assert asked == [(group, ["prompt"]) for group in range(4)]
    assert pa.default_memory_pool().max_memory() <= max(peak, before + 500_000)


def test_a_byte_that_has_changed_is_no_other_prompt(tmp_path):
    file = tmp_path / "p.parquet"
    pq.write_table(pa.table(CAT), file, compression="none", write_page_checksum=True)
    assert read(file) == CAT["prompt"]
    file.write_bytes(file.read_bytes().replace(b"a dog", b"a fog", 1))
    with pytest.raises(UserError, match="teacher.prompts: cannot read .*p.parquet"):
        read(file)


def saved(folder):
    datasets.Dataset.from_dict(CAT).save_to_disk(folder)
    return folder


def test_what_map_left_in_the_folder_is_not_read(tmp_path):
    again = datasets.load_from_disk(str(saved(tmp_path / "set")))
    again.map(lambda row: {"prompt": row["prompt"].upper()}, load_from_cache_file=False)
    table = pa.table({"prompt": ["an older shard"]})
    with pa.ipc.new_stream(tmp_path / "set" / "data-7.arrow", table.schema) as stream:
        stream.write_table(table)
    assert len(list((tmp_path / "set").glob("*.arrow"))) == 3
    assert read(tmp_path / "set") == CAT["prompt"]


def test_a_dataset_that_lacks_a_file_is_refused(tmp_path):
    next(saved(tmp_path / "set").glob("*.arrow")).unlink()
    with pytest.raises(UserError, match="state.json names data-.*arrow, which is not there"):
        read(tmp_path / "set")


def test_one_of_several_splits_has_to_be_named(tmp_path):
    both = datasets.Dataset.from_dict(CAT)
    datasets.DatasetDict({"train": both, "test": both.select([1])}).save_to_disk(tmp_path / "set")
    with pytest.raises(UserError, match="has the splits train, test; give the folder .*set/train"):
        read(tmp_path / "set")
    assert read(tmp_path / "set" / "train") == CAT["prompt"]
    assert read(tmp_path / "set" / "test") == ["a dog"]
    datasets.DatasetDict({"train": both}).save_to_disk(tmp_path / "one")
    assert read(tmp_path / "one") == CAT["prompt"]


@pytest.mark.parametrize(
    "hidden", [".cache/a.parquet", "__MACOSX/a.parquet", "._a.parquet", "_temporary/a.parquet"]
)
def test_hidden_files_are_no_prompts(tmp_path, hidden):
    (tmp_path / hidden).parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"prompt": ["of a cache"]}), tmp_path / hidden)
    pq.write_table(pa.table(CAT), tmp_path / "a.PARQUET")
    assert read(tmp_path) == CAT["prompt"]


def test_a_folder_may_be_called_as_a_file(tmp_path):
    (tmp_path / "p.parquet").mkdir()
    pq.write_table(pa.table(CAT), tmp_path / "p.parquet" / "part-0.parquet")
    assert read(tmp_path / "p.parquet") == CAT["prompt"]


def test_text_beside_tables_is_told_and_two_kinds_of_text_are_refused(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("a bird\n")
    (tmp_path / "b.csv").write_text("prompt\na fish\n")
    with pytest.raises(UserError, match="has files of .csv and .txt; name one of them"):
        read(tmp_path)
    pq.write_table(pa.table(CAT), tmp_path / "a.parquet")
    assert read(tmp_path) == CAT["prompt"]
    told = "prompts  other files are not read: 1 .txt (a.txt), 1 .csv (b.csv)"
    assert told in capsys.readouterr().out


def test_what_is_no_prompt_in_a_folder_is_counted_and_links_are_followed(tmp_path, capsys):
    source = tmp_path / "source"
    for name in ("a.jsonl", "b.jsonl.gz", "c.json", "d.tsv", "../more/e.jsonl"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text('{"prompt": "a cat"}\n')
    (source / "more").symlink_to(tmp_path / "more")
    assert read(source) == ["a cat"] * 2
    told = "prompts  other files are not read: 1 .gz (b.jsonl.gz), 1 .json (c.json), 1 .tsv (d.tsv)"
    assert told in capsys.readouterr().out


@pytest.mark.parametrize("state", ['{"_data_files": ["a"]}', '{"_data_files": 1}', "[]"])
def test_a_state_that_is_damaged_is_named(tmp_path, state):
    pq.write_table(pa.table(CAT), tmp_path / "a.parquet")
    (tmp_path / "state.json").write_text(state)
    assert read(tmp_path) == CAT["prompt"], "it is no dataset's"
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(UserError, match="teacher.prompts: "):
        read(tmp_path)


def test_a_damaged_file_of_a_folder_is_named(tmp_path):
    pq.write_table(pa.table(CAT), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"none")
    with pytest.raises(UserError, match="cannot read .*/b.parquet"):
        read(tmp_path)


def test_no_bit_of_a_footer_that_has_changed_loses_a_prompt(tmp_path):
    file, prompts = tmp_path / "p.parquet", [f"a cat of {age}" for age in range(30)]
    table = pa.table({"prompt": prompts, "age": range(30)})
    pq.write_table(table, file, row_group_size=10, write_page_checksum=True)
    whole = file.read_bytes()
    begin, lost = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little"), 0
    for bit in range(8 * begin, 8 * len(whole), 5):
        one = bytearray(whole)
        one[bit // 8] ^= 1 << bit % 8
        file.write_bytes(one)
        try:
            found = read(file)
        except UserError as error:
            lost += "is damaged: it says" in str(error)
            continue
        assert found == prompts
    assert lost
