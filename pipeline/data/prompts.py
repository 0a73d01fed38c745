"""Prompts from files: text, CSV, Parquet, or the folder of a Hugging Face dataset."""

import hashlib
import json
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline.config import S3Config, TeacherConfig
from pipeline.data.sources.sample import NAMES, field
from pipeline.data.storage import Storage, Store
from pipeline.utils.errors import UserError
from pipeline.utils.files import cache_folder, write_file

_COPY = ".prompts"
_FILES = (".txt", ".csv", ".parquet", ".arrow")


def local_prompts(teacher: TeacherConfig, credentials: S3Config) -> TeacherConfig:
    """The same settings, with `prompts` as a local file of one JSON string a line.

    Raises:
        UserError: If the file cannot be read or has no prompts.
    """
    if teacher.prompts is None or teacher.prompts.endswith(_COPY):
        return teacher
    prompts = read_prompts(teacher.prompts, credentials)
    content = "".join(f"{json.dumps(prompt)}\n" for prompt in prompts).encode()
    file = cache_folder() / f"{hashlib.sha256(content).hexdigest()[:32]}{_COPY}"
    if not file.is_file():
        write_file(file, content)
    return teacher.model_copy(update={"prompts": str(file)})


def read_prompts(path: str, credentials: S3Config) -> list[str]:
    """All prompts of a file or folder, local or not, in order; raises as `local_prompts`."""
    path = path.rstrip("/")
    if path.endswith(_FILES):
        folder, _, name = path.rpartition("/")
        store, names = Storage(folder, credentials, "teacher.prompts"), [name]
        if name not in store.list(name):
            raise UserError(f"teacher.prompts: there is no {path}")
    else:
        store = Storage(path, credentials, "teacher.prompts")
        names = [name for name in store.tree() if name.endswith((".parquet", ".arrow"))]
    try:
        prompts = [line for name in names for line in _read(store, name)]
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"teacher.prompts: cannot read {path}: {reason}") from error
    if not prompts:
        raise UserError(
            f"teacher.prompts: no prompts in {path}; give a file that ends in .txt, .csv or "
            ".parquet, or the folder of a Hugging Face dataset"
        )
    return prompts


def _read(store: Store, name: str) -> Iterator[str]:
    """The prompts of one file, without the space around them; empty ones are left out."""
    with store.open(name) as file:
        if name.endswith(".txt"):
            lines = file.read().decode().splitlines()
        else:
            if name.endswith(".csv"):
                table = pyarrow.csv.read_csv(file)
            elif name.endswith(".parquet"):
                table = pq.read_table(file)
            else:
                table = pa.ipc.open_stream(file).read_all()
            column = field(table.column_names, "captions")
            if column is None:
                raise UserError(
                    f"teacher.prompts: {store.uri(name)} has no column "
                    f"{', '.join(NAMES['captions'])}; it has {', '.join(table.column_names)}"
                )
            lines = table[column].to_pylist()
    yield from (line for each in lines if (line := str(each or "").strip()))
