"""Which image of a source has which id: listed once, and kept beside the set."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import S3Config
from pipeline.data.schema import footer
from pipeline.data.sources.sample import Sample, Wanted
from pipeline.data.sources.source import UNANNOTATED, Reader, Source, to_samples
from pipeline.data.storage import Store
from pipeline.data.twice import twice
from pipeline.utils.errors import DamagedError, UserError

NAME = "listing.parquet"
GROUP = 1000
"""Rows of a row group of the listing."""
SETTING = "encode.source"


class Listing:
    """The listing that a set's store has.

    Args:
        store: Of the set.

    Attributes:
        source: Fingerprint of the source's files, and of what was asked of them.
        unannotated: Number of images that it leaves out; 0 where an older version made it.

    Raises:
        UserError: If there is none, or it is damaged; so does whatever reads it.
    """

    @twice
    def __init__(self, store: Store) -> None:
        self._store = store
        with self._readable():
            self._file = pq.ParquetFile(store.open(NAME), page_checksum_verification=True)
            said = footer(self._file)
            self.source, self._kind = said["source"], said["kind"]
            self.unannotated = int(said.get("unannotated", 0))

    @property
    def count(self) -> int:
        """Number of images; their ids are 0 to count - 1."""
        return int(self._file.metadata.num_rows)

    def reader(self, path: str, s3: S3Config) -> Reader:
        """Gives the images of the source at this path."""
        return Reader(path, self._kind, s3, SETTING)

    @twice
    def samples(self, ids: range) -> list[Sample]:
        """The images with these ids."""
        groups = range(ids.start // GROUP, (ids.stop - 1) // GROUP + 1)
        with self._readable():
            table = self._file.read_row_groups(list(groups), use_threads=False)
            start = ids.start - groups.start * GROUP
            return to_samples(table, range(start, start + len(ids)))

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, LookupError, OSError, ValueError) as error:
            raise DamagedError(
                f"{self._store.uri(NAME)} is damaged ({str(error).partition(chr(10))[0]}); choose "
                "another encode.output"
            ) from error


def open_listing(
    store: Store,
    path: str,
    s3: S3Config,
    wanted: Wanted,
    classes: int | None,
    skip: bool = False,
) -> Listing:
    """The listing of a source; it is made and put in the set's store unless it is there.

    Args:
        store: Of the set.
        path: Of the source: a folder, a .parquet or .tar file, here or in a bucket.
        s3: Where S3 is.
        wanted: What the teacher needs to know of each image.
        classes: Number of class labels, where labels are wanted.
        skip: Leave out the images without what is wanted; a line counts them, every time.

    Raises:
        UserError: If there are no images, something cannot be read or has no annotation, or the
            listing that is there is of another source or state of it, or leaves out what should
            not be.
    """
    source = Source(path, s3, SETTING)
    fingerprint = source.fingerprint(wanted, classes)
    if new := NAME not in store.list(NAME):
        table = source.table(wanted, classes, skip)
        said = {"source": fingerprint, "kind": source.kind}
        said["unannotated"] = table.schema.metadata[UNANNOTATED].decode()
        store.put(NAME, _dump(table, said))
    listing = Listing(store)
    if listing.source != fingerprint:
        raise UserError(
            f"{SETTING}: {path} is not what {store.uri(NAME)} lists, or has changed since; "
            "choose another encode.output, or delete all of that one"
        )
    if listing.unannotated:
        lacking = f"{listing.unannotated} images without a {wanted[:-1]}"
        if not skip:
            raise UserError(
                f"encode.unannotated: refuse, but {store.uri(NAME)} leaves out {lacking}; give "
                "skip, or add what they lack and choose another encode.output"
            )
        if not new:
            print(f"listing  {lacking} left out, as {store.uri(NAME)} says", flush=True)
    return listing


def _dump(table: pa.Table, metadata: dict[str, str]) -> bytes:
    file = pa.BufferOutputStream()
    with pq.ParquetWriter(
        file, table.schema, compression="zstd", store_schema=False, write_page_checksum=True
    ) as writer:
        writer.write_table(table, row_group_size=GROUP)
        writer.add_key_value_metadata(metadata)
    return bytes(file.getvalue())
