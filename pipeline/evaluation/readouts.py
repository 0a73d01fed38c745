"""What was read of the images of an evaluation, kept for the next one.

    readouts/<digest>/teacher-0-500.npz

An evaluation that was stopped goes on where it was, and that of a further student of a teacher
makes and reads the student's images alone. The digest is of all that defines the images of a set
and their features; those of other digests are removed at the end.
"""

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.evaluation.image_reader import Batch, ImageReader, Stream, Task
from pipeline.evaluation.statistics import Readout
from pipeline.models.perceptual.features import weights_checksum
from pipeline.utils.errors import UserError
from pipeline.utils.files import file_sha256, write_file

_BY = tuple(map(version, ("ray-dmd", "torch")))
"""The programs that make and read the images."""


class Readouts:
    """Batches on disk, by what they are of.

    Args:
        folder: Where they are.
        reader: Of the images; its networks and real images are part of what defines them.
        settings: Those that are too.
        student: The student's folder. It has more than weights: how many steps, at which times.
    """

    def __init__(
        self, folder: Path, reader: ImageReader, settings: Mapping[str, Any], student: str
    ) -> None:
        self.folder, self._full, real = folder, False, reader.sets.real
        weights = dict(reader.weights)
        own = weights.pop("evaluate.student", None)
        classifier = reader.classifier and weights_checksum(reader.classifier)
        images = real and (real.fingerprint, real.conditions)
        self._made = _digest([_BY, settings, weights, classifier, images])
        files = sorted(Path(student).rglob("*.json"))
        told = [(str(each.relative_to(student)), file_sha256(each).hex()) for each in files]
        self._student = _digest([self._made, own, told]) if own else None

    def before(self, stream: Stream) -> Stream:
        """A stream that gives what is kept, and leaves the other tasks to this one."""

        def read(reader: ImageReader, tasks: Sequence[Task]) -> Iterator[Batch]:
            left, known = [], 0
            for task in tasks:
                if (found := self._kept(task)) is None:
                    left.append(task)
                else:
                    yield found
                    known += task.stop - task.first
            if known:
                print(
                    f"evaluate  {known} images were made and read before; remove {self.folder} to "
                    "make them anew"
                )
            for batch in stream(reader, left) if left else ():
                self._keep(batch)
                yield batch

        return read

    def remove_others(self) -> None:
        """Remove what this evaluation did not need."""
        for each in self.folder.glob("*"):
            if each.name not in (self._made, self._student):
                shutil.rmtree(each, ignore_errors=True)

    def _place(self, task: Task) -> Path | None:
        digest = self._student if task.name.startswith("student") else self._made
        name = f"{task.name}-{task.first}-{task.stop}.npz"
        return None if digest is None else self.folder / digest / name

    def _kept(self, task: Task) -> Batch | None:
        place = self._place(task)
        try:
            return unpacked(task, place.read_bytes()) if place else None
        except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile):
            return None  # of another process that removes it, or damaged: it is made anew

    def _keep(self, batch: Batch) -> None:
        place = self._place(batch.task)
        if place is None or self._full:
            return
        try:
            write_file(place, packed(batch))
        except UserError as error:
            self._full = True
            print(f"evaluate  no more is kept for the next evaluation: {error}")


def packed(batch: Batch) -> bytes:
    """What was read of a batch, as a file."""
    file = io.BytesIO()
    arrays = {name: value.numpy() for name, value in batch.readout._asdict().items()}
    np.savez(file, peak=np.array(batch.peak), **arrays)
    return file.getvalue()


def unpacked(task: Task, content: bytes) -> Batch:
    """The batch of a task from `packed`; raises what NumPy does if it is none."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        readout = Readout(*(torch.from_numpy(arrays[name]) for name in Readout._fields))
        return Batch(task, readout, int(arrays["peak"]))


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
