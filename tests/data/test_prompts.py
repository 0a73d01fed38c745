"""Prompts from every kind of file that may hold them."""

import json
from pathlib import Path

import boto3
import datasets
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from moto import mock_aws

from pipeline.config import Config, S3Config, TeacherConfig
from pipeline.data import prompts as prompts_module
from pipeline.data import s3
from pipeline.data.fetch import fetch_inputs
from pipeline.data.prompts import local_prompts, read_prompts
from pipeline.utils.errors import UserError

PROMPTS = ["a cat", "zwei Hunde, grün", "a cat"]


def asked(path: object) -> Config:
    return Config.model_validate({"teacher": {"prompts": str(path)}})


def prompts_of(path: str, credentials: S3Config) -> list[str]:
    return list(read_prompts(path, credentials))


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


def jsonl(folder: Path) -> Path:
    rows = [json.dumps({"id": 1, "Prompt": prompt}) for prompt in PROMPTS]
    (folder / "p.jsonl").write_text("\n".join([*rows, "", '{"id": 2}', '{"prompt": null}']))
    return folder / "p.jsonl"


def arrow(folder: Path) -> Path:
    table = pa.table({"text": pa.array(PROMPTS, pa.large_string())})
    feather.write_feather(table, folder / "p.arrow")
    return folder / "p.arrow"


def dataset(folder: Path) -> Path:
    datasets.Dataset.from_dict({"prompt": PROMPTS}).save_to_disk(folder / "set")
    return folder / "set"


def hub_folder(folder: Path) -> Path:
    (folder / "hub" / "data").mkdir(parents=True)
    for number, prompt in enumerate(PROMPTS):
        name = f"train-{number:05d}-of-00003.parquet"
        pq.write_table(pa.table({"prompt": [prompt]}), folder / "hub" / "data" / name)
    return folder / "hub"


def folder_of_text(folder: Path) -> Path:
    for number, prompt in enumerate(PROMPTS):
        (folder / f"{number}.TXT").write_text(f"{prompt}\n")
    return folder


KINDS = [text, csv, jsonl, parquet, arrow, dataset, hub_folder, folder_of_text]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_prompts(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "in").mkdir()
    config = asked(kind(tmp_path / "in"))
    assert prompts_of(config.teacher.prompts, config.s3) == PROMPTS
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
        assert prompts_of("s3://bucket/sets/p.parquet", S3Config()) == PROMPTS
        assert prompts_of("s3://bucket/sets", S3Config()) == PROMPTS
    s3._connect.cache_clear()


@pytest.mark.parametrize(
    ("name", "content", "prompts"),
    [
        ("p.txt", "\ufeffa cat\r\na dog\r\n", ["a cat", "a dog"]),
        ("p.csv", "\ufeffprompt\r\na cat\r\n", ["a cat"]),
        ("p.jsonl", '\ufeff{"prompt": "a cat"}\r\n', ["a cat"]),
        (
            "p.txt",
            "a cat\u2028on a mat\na dog\x85runs\nb\x0cc\n",
            ["a cat\u2028on a mat", "a dog\x85runs", "b\x0cc"],
        ),
        ("p.TXT", "a cat\n", ["a cat"]),
        ("P.CSV", "PROMPT\na cat\n", ["a cat"]),
        ("p.csv", "prompt\n0\n007\n1e5\n", ["0", "007", "1e5"]),
        ("p.csv", "prompt\ntrue\nfalse\n", ["true", "false"]),
        ("p.csv", 'id,prompt\n1,"a cat\non a mat"\n2,a dog\n', ["a cat\non a mat", "a dog"]),
        ("p.csv", 'prompt\na 12" pizza\n"a ""b"" c"\n', ['a 12" pizza', 'a "b" c']),
        ("p.csv", "id;x,prompt\n1,a\n", ["a"]),
    ],
)
def test_text_is_taken_as_it_stands(tmp_path, name, content, prompts):
    (tmp_path / name).write_bytes(content.encode())
    assert prompts_of(str(tmp_path / name), S3Config()) == prompts


def test_a_large_csv_file_keeps_its_line_breaks(tmp_path):
    rows = [f"caption {number} has two lines,\nas a model writes them" for number in range(40_000)]
    table = "".join(f'{number},"{row}"\n' for number, row in enumerate(rows))
    (tmp_path / "p.csv").write_text(f"id,prompt\n{table}")
    assert prompts_of(str(tmp_path / "p.csv"), S3Config()) == rows


def test_rows_without_a_prompt_are_counted(tmp_path, capsys):
    prompts_of(str(parquet(tmp_path)), S3Config())
    prompts_of(str(text(tmp_path)), S3Config())
    assert capsys.readouterr().out.splitlines() == [
        "prompts  1 of 4 rows without a prompt left out",
        "prompts  1 of 4 rows without a prompt left out",
    ]
    prompts_of(str(csv(tmp_path)), S3Config())
    assert not capsys.readouterr().out


def test_a_copy_stays_while_others_read_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    teacher = TeacherConfig(prompts=str(text(tmp_path)))
    first = Path(local_prompts(teacher, S3Config()).prompts)
    made = first.stat()
    assert Path(local_prompts(teacher, S3Config()).prompts) == first
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns)
    assert list(first.parent.iterdir()) == [first]
    copy = teacher.model_copy(update={"prompts": str(first)})
    assert local_prompts(copy, S3Config()) == copy
    monkeypatch.setenv("XDG_CACHE_HOME", str(first))
    with pytest.raises(UserError, match="cannot write .*; free space, or set XDG_CACHE_HOME"):
        local_prompts(teacher, S3Config())


def test_a_file_in_the_root_and_one_beside_us(tmp_path, monkeypatch):
    text(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert prompts_of("p.txt", S3Config()) == PROMPTS
    opened = []
    monkeypatch.setattr(prompts_module, "Storage", lambda uri, *rest: opened.append(uri) or Fake())
    assert prompts_of("/p.txt", S3Config()) == ["a cat"]
    assert opened == ["/"]


class Fake:
    """A store with one file."""

    def list(self, prefix):
        return {prefix: 1}

    def open(self, name):
        return pa.BufferReader(self.get(name))

    def get(self, name):
        return b"a cat"

    def uri(self, name):
        return f"/{name}"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", b"\n \n", "teacher.prompts: no prompts in .*p.txt; give a file that ends"),
        ("p.txt", b"\xff\xfe", "teacher.prompts: .*p.txt is not UTF-8 .it is UTF-16"),
        ("p.txt", b"a\nb\xe9\n", "p.txt is not UTF-8 .line 2 has the byte 0xe9.; save it as UTF-8"),
        ("p.txt", b"a\0cat\n", "p.txt is not UTF-8 .line 1 has the byte 0x00"),
        ("p.csv", b"Prompt,prompt\na,b\n", "p.csv has two columns, Prompt and prompt; rename one"),
        ("p.csv", b"id,name\n1,x\n", "p.csv has no column prompt, caption, text; it has id, name"),
        ("p.csv", b"a cat\na dog\n", "p.csv has no column .*; it has a cat; rename"),
        ("p.csv", b"id;prompt\n1;a, cat\n", "p.csv has ';' between its columns; separate them by"),
        ("p.csv", b"id\tprompt\n1\ta\n", r"p.csv has '\\t' between its columns"),
        (
            "p.csv",
            b"id,prompt\n1,a cat, sits\n",
            "line 2 of .*p.csv has 3 fields, the header 2; put",
        ),
        ("p.csv", b"prompt\na cat, sits\n", "line 2 of .*p.csv has 2 fields, the header 1; put a"),
        (
            "p.csv",
            b'prompt\n"a cat\n',
            "the row from line 2 of .*p.csv is no CSV .*close its quotes",
        ),
        ("p.csv", b"prompt,prompt\na,b\n", "p.csv has two columns 'prompt'; rename one"),
        ("p.jsonl", b'{"prompt": "a"}\n[1]\n', "line 2 of .*p.jsonl is no JSON object, but list"),
        ("p.jsonl", b'{"prompt": ["a"]}\n', "record 1 of .* has a prompt of type list, not text"),
        ("p.jsonl", b'{"id": 1}\n{"id": 2}\n', "p.jsonl has no column prompt.*; it has id; rename"),
        ("p.jsonl", b'{"prompt": "a\\u0000"}\n', "p.jsonl has a prompt with a NUL character"),
        ("p.parquet", b"none", "teacher.prompts: cannot read .*p.parquet"),
        ("p.arrow", b"none", "teacher.prompts: cannot read .*p.arrow"),
        ("my.prompts", b"a cat\n", "teacher.prompts: no prompts in .*my.prompts; give a file that"),
        ("my.prompts", None, "teacher.prompts: no prompts in .*my.prompts; give a file that"),
        ("p.docx", b"", "teacher.prompts: no prompts in .*p.docx; give a file that ends"),
        ("there.txt", None, "teacher.prompts: there is no .*there.txt"),
    ],
)
def test_what_cannot_be_read_is_one_clear_error(tmp_path, monkeypatch, name, content, message):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        local_prompts(TeacherConfig(prompts=str(tmp_path / name)), S3Config())
    assert "\n" not in str(error.value)
