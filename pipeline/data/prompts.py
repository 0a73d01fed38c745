"""Prompts from files: text, CSV, JSON Lines, Parquet, Arrow, or a Hugging Face dataset's folder."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from pipeline.config import S3Config, TeacherConfig
from pipeline.data import text
from pipeline.data.prompt_images import beside, copied
from pipeline.data.prompt_rows import TABLES, TEXTS, Row, rows_of
from pipeline.data.sources.left_out import LeftOut, is_hidden
from pipeline.data.sources.place import Place
from pipeline.data.sources.sample import SourceError
from pipeline.data.storage import Storage, Store
from pipeline.data.text import TextError
from pipeline.utils import scratch
from pipeline.utils.errors import UserError
from pipeline.utils.files import CACHE_WAY_OUT, cache_folder, write_pieces

_COPY = ".prompts"
_MAPPED = re.compile(r"(^|/)cache-[^/]*\.arrow$")
"""What `map` and `filter` of a dataset leave behind."""
_NOTES = ("state.json", "dataset_info.json", "dataset_dict.json")


def local_prompts(teacher: TeacherConfig, credentials: S3Config) -> TeacherConfig:
    """The same settings, with `prompts` as a local file of one JSON string a line.

    With `prompt_images` each line is a list: the prompt, and the SHA-256 of the images beside it,
    whose copies `image_file` finds.

    Raises:
        UserError: If the file cannot be read or has no prompts, or an image cannot be read.
    """
    if teacher.prompts is None or _is_copy(teacher.prompts):
        return teacher
    digest, cache = hashlib.sha256(), cache_folder()
    rows = read_rows(teacher.prompts, credentials, teacher.prompt_images)

    def lines() -> Iterator[bytes]:
        for row in copied(rows, cache) if teacher.prompt_images else rows:
            content = [row.prompt, *row.images] if row.images else row.prompt
            yield (line := f"{json.dumps(content)}\n".encode())
            digest.update(line)

    try:
        cache.mkdir(parents=True, exist_ok=True)
        with scratch.folder_beside(cache / "prompts") as fresh:
            write_pieces(fresh / "prompts", lines(), CACHE_WAY_OUT)
            file = cache / f"{digest.hexdigest()[:32]}{_COPY}"
            if not file.is_file():  # others may be reading it, on other nodes too
                (fresh / "prompts").replace(file)
    except OSError as error:
        raise UserError(f"cannot write to {cache}: {error.strerror}; {CACHE_WAY_OUT}") from error
    return teacher.model_copy(update={"prompts": str(file)})


def _is_copy(path: str) -> bool:
    """Whether a file is such a local one already, by its name and first line."""
    with suppress(OSError, ValueError):
        if path.endswith(_COPY):
            with open(path, "rb") as file:
                return isinstance(json.loads(file.readline()), str | list)
    return False


def read_prompts(path: str, credentials: S3Config) -> Iterator[str]:
    """All prompts of a file or folder, as `read_rows`."""
    return (row.prompt for row in read_rows(path, credentials))


def read_rows(path: str, credentials: S3Config, columns: Sequence[str] = ()) -> Iterator[Row]:
    """All prompts of a file or folder, local or not, in order, without the space around them.

    Rows without a prompt are left out; one printed line counts them. Raises as `local_prompts`.

    Args:
        path: The file or folder.
        credentials: What reaches the bucket.
        columns: Of the images beside each prompt.
    """
    rows = prompts = 0
    store, names = _files(path.rstrip("/") or "/", credentials)
    for name in names:
        with _readable(where := store.uri(name)):
            for row in rows_of(store, name, columns):
                rows += 1
                if prompt := (row.prompt or "").strip():
                    prompts += 1
                    images = [beside(store, name, each, where) for each in row.images]
                    yield Row(_clean(prompt, where), tuple(images))
    if not prompts:
        raise UserError(
            f"teacher.prompts: no prompts in {path}; give a file that ends in "
            f"{', '.join(TEXTS + TABLES)}, or the folder of a Hugging Face dataset"
        )
    if left := rows - prompts:
        print(f"prompts  {left} of {rows} rows without a prompt left out")


def _files(path: str, credentials: S3Config) -> tuple[Store, list[str]]:
    """A store, and the names of the files in it that hold the prompts, in order."""
    if (ending := _ending(path)) in TEXTS + TABLES:
        name = path.rpartition("/")[2]
        store = Storage(path.removesuffix(name), credentials, "teacher.prompts")
        if name in store.list(name):
            return store, [name]
    store = Storage(path, credentials, "teacher.prompts")
    with _readable(path):
        found = Place(store, None).versions()
        shown = [name for name, mark in found.items() if mark and not is_hidden(name)]
        own = [name for name in shown if not _MAPPED.search(name)]
        names = _of_one_kind(_of_dataset(store, own), path)
    _tell_others(set(found) - {*names})
    if not names and ending in TEXTS + TABLES:
        raise UserError(f"teacher.prompts: there is no {path}")
    return store, names


def _tell_others(names: Iterable[str]) -> None:
    """Count the files of a folder that hold no prompts, but for what `datasets` notes itself."""
    left = LeftOut()
    for name in sorted(names):
        if PurePosixPath(name).name not in _NOTES:
            left.add_file(name)
    if str(left):
        print(f"prompts  other files are not read: {left}", flush=True)


def _ending(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _of_dataset(store: Store, names: list[str]) -> list[str]:
    """What `save_to_disk` says are its files, where it made the folder; else all of them.

    Raises:
        TextError: If it has several splits, or lacks a file.
    """
    if "dataset_dict.json" in names:
        splits = _json(store, "dataset_dict.json").get("splits", [])
        if len(splits) > 1:
            raise TextError(
                f"{store.uri('')} has the splits {', '.join(splits)}; give the folder of one: "
                f"{store.uri(splits[0])}"
            )
    for state in [name for name in names if PurePosixPath(name).name == "state.json"]:
        folder = state.removesuffix("state.json")
        if f"{folder}dataset_info.json" in names:
            wanted = {folder + name for name in _data_files(store, state)}
            if missing := sorted(wanted.difference(names)):
                raise TextError(f"{store.uri(state)} names {missing[0]}, which is not there")
            names = [each for each in names if each in wanted or not each.startswith(folder)]
    return names


def _data_files(store: Store, state: str) -> list[str]:
    """Names of a dataset's files, as its state has them."""
    match _json(store, state).get("_data_files"):
        case list(files) if all(isinstance(each, dict) and "filename" in each for each in files):
            return [str(each["filename"]) for each in files]
    raise TextError(f"{store.uri(state)} is damaged; save the dataset once more")


def _json(store: Store, name: str) -> dict[str, Any]:
    where = store.uri(name)
    return text.record(text.decode(store.get(name), where), where)


def _of_one_kind(names: list[str], path: str) -> list[str]:
    """The tables among these; where there are none, the files of text.

    Raises:
        TextError: If the files of text are of several kinds.
    """
    texts = [name for name in names if _ending(name) in TEXTS]
    if tables := [name for name in names if _ending(name) in TABLES]:
        return tables
    if len(kinds := sorted({_ending(name) for name in texts})) > 1:
        raise TextError(f"{path} has files of {' and '.join(kinds)}; name one of them")
    return texts


@contextmanager
def _readable(where: str) -> Iterator[None]:
    try:
        yield
    except (SourceError, TextError) as error:
        raise UserError(f"teacher.prompts: {error}") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"teacher.prompts: cannot read {where} ({reason}); write it again, text as UTF-8"
        ) from error


def _clean(prompt: str, where: str) -> str:
    if "\0" in prompt:
        raise TextError(f"{where} has a prompt with a NUL character, {prompt[:60]!r}; remove it")
    return prompt
