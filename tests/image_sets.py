"""The same few images and captions in every layout of a source."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

FORMATS = {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP"}
Item = tuple[str, bytes, str]
"""Name, content and caption."""


def picture(number: int, size: tuple[int, int] = (40, 28)) -> Image.Image:
    """A smooth one, of its own."""
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def content(image: Image.Image, kind: str = "PNG", **more: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **more)
    return file.getvalue()


def items(count: int) -> list[Item]:
    """JPEG, PNG and WebP in turn."""
    endings = list(FORMATS)
    return [
        (
            f"{number:03}{(end := endings[number % 3])}",
            content(picture(number), FORMATS[end]),
            f"picture {number}",
        )
        for number in range(count)
    ]


def save_files(folder: Path, some: list[Item]) -> Path:
    folder.mkdir(parents=True)
    for name, data, caption in some:
        (folder / name).write_bytes(data)
        (folder / name).with_suffix(".txt").write_text(f"{caption}\n")
    return folder


def save_parquet(folder: Path, some: list[Item], rows: int = 4) -> Path:
    """Two files as Hugging Face writes them, in row groups of so many."""
    folder.mkdir(parents=True)
    half = (len(some) + 1) // 2
    for number, part in enumerate((some[:half], some[half:])):
        table = pa.table(
            {
                "url": [name.encode() for name, _, _ in part],
                "image": [{"bytes": data, "path": name} for name, data, _ in part],
                "TEXT": [caption for _, _, caption in part],
            }
        )
        pq.write_table(table, folder / f"train-{number}-of-2.parquet", row_group_size=rows)
    return folder


def add(archive: tarfile.TarFile, name: str, raw: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(raw)
    archive.addfile(member, io.BytesIO(raw))


def save_tars(folder: Path, some: list[Item]) -> Path:
    """Two of WebDataset's shards: captions in .txt, then in .json."""
    folder.mkdir(parents=True)
    half = (len(some) + 1) // 2
    for number, part in enumerate((some[:half], some[half:])):
        with tarfile.open(folder / f"{number:05}.tar", "w") as archive:
            for name, data, caption in part:
                stem, _, end = name.partition(".")
                said = json.dumps({"caption": caption, "width": 40})
                text = {"txt": caption.encode()} if number == 0 else {"json": said.encode()}
                for part_end, raw in {**text, end: data}.items():
                    add(archive, f"./part/{stem}.{part_end}", raw)
    return folder


LAYOUTS = {"files": save_files, "parquet": save_parquet, "tars": save_tars}
