"""Which column of a Parquet file holds the images."""

import re

import pyarrow as pa
import pyarrow.parquet as pq

_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp")
"""Columns that are taken whatever their bytes are, the first before the others."""
_HEADS = re.compile(
    rb"\xff\xd8\xff|\x89PNG|GIF8|RIFF....WEBP|BM|II\*\0|MM\0\*|....ftyp|\0\0\0\x0cj|\xff\x0a",
    re.DOTALL,
)
"""How the files of images begin."""


def image_column(file: pq.ParquetFile) -> str | None:
    """The column of images, of those that hold bytes or structs of them; None if there is none.

    It is the first of `image`, `img`, `jpg`, `jpeg`, `png` and `webp`, or else the first whose
    first value begins as the file of an image does.
    """
    held = [each.name for each in file.schema_arrow if _holds_bytes(each.type)]
    known = {name.lower(): name for name in reversed(held)}
    if name := next((known[name] for name in _NAMES if name in known), None):
        return name if _has_values(file, name) else None
    return next((name for name in held if _HEADS.match(_first(file, name))), None)


def leaf(file: pq.ParquetFile, name: str) -> str:
    """What to read of this column: of a struct the bytes alone."""
    return f"{name}.bytes" if pa.types.is_struct(file.schema_arrow.field(name).type) else name


def content(value: pa.Scalar) -> bytes:
    """The bytes in a value of such a column; empty if there are none."""
    found = value.as_py()
    return (found.get("bytes") if isinstance(found, dict) else found) or b""


def why_none(file: pq.ParquetFile) -> str:
    """What the file has instead of a column of images, and the way out."""
    names = file.schema_arrow.names
    for each in file.schema_arrow:
        if _is_list(each.type) and _holds_bytes(each.type.value_type):
            return f"has lists of images in the column {each.name}; write one image a row"
        if pa.types.is_struct(each.type) and _holds_bytes(each.type) and file.metadata.num_rows:
            return (
                f"has no bytes of images in the column {each.name}, only their paths; give the "
                "folder of the images, or write the table anew with their bytes in it"
            )
    if "url" in map(str.lower, names):
        return "is a list of URLs without images; download them first, such as by img2dataset"
    return f"has no column of images (binary, or a struct with bytes); it has {', '.join(names)}"


def _has_values(file: pq.ParquetFile, name: str) -> bool:
    """Whether one is not null, by the footer if it says so; also if the file has no rows."""
    path = leaf(file, name)
    for group in map(file.metadata.row_group, range(file.num_row_groups)):
        for chunk in map(group.column, range(group.num_columns)):
            known = chunk.statistics if chunk.path_in_schema == path else None
            if known is not None and known.has_null_count and known.null_count < chunk.num_values:
                return True
    return not file.metadata.num_rows or bool(_first(file, name))


def _first(file: pq.ParquetFile, name: str) -> bytes:
    """The first value that is not null."""
    for batch in file.iter_batches(1, columns=[leaf(file, name)], use_threads=False):
        for value in batch.column(0):
            if found := content(value):
                return found
    return b""


def _holds_bytes(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    if types.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    return any(
        is_one(kind) for is_one in (types.is_binary, types.is_large_binary, types.is_binary_view)
    )


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return any(
        is_one(kind) for is_one in (types.is_list, types.is_large_list, types.is_fixed_size_list)
    )
