"""The stored conditions that a run reads in place of text encoders."""

from dataclasses import asdict
from functools import cached_property

from pipeline.config import S3Config, TeacherConfig
from pipeline.data.conditions import ConditionReader
from pipeline.data.manifest import Manifest
from pipeline.data.plans import ConditionPlan
from pipeline.data.shards import check_stored, read_manifest
from pipeline.data.storage import Storage
from pipeline.models.condition import Stored, read_prompts
from pipeline.models.encoders import condition_plan
from pipeline.utils.errors import UserError

_WORDS = {
    "family": "family of teachers",
    "pipeline": "pipeline",
    "encoders": "text encoder",
    "tokenizers": "tokenizer",
    "template": "chat template",
    "prompts": "teacher.prompts",
    "negative_prompt": "teacher.negative_prompt",
    "images": "reader of images, VAE, teacher.image_size or teacher.buckets",
}
"""What differs where a field of the plan does; of others the name tells it."""


class RunConditions:
    """The set of conditions of a run.

    Args:
        output: URI of the set, `embed.output`.
        teacher: Of the run, with folder and prompts on this machine.
        credentials: What reaches a bucket.
    """

    def __init__(self, output: str, teacher: TeacherConfig, credentials: S3Config) -> None:
        self._teacher = teacher
        self._storage = Storage(output, credentials, "embed.output")

    @property
    def made(self) -> bool:
        """Whether there is a closed set; raises UserError if the store refuses."""
        return bool(self._storage.list("manifest-"))

    @cached_property
    def manifest(self) -> Manifest[ConditionPlan]:
        """Of the set there is; raises UserError if there is none."""
        return read_manifest(self._storage, ConditionPlan)

    def check(self) -> str:
        """See that it is of this teacher and its prompts, and all there; says what it is.

        Raises:
            UserError: If not, or there is no such set.
        """
        found = self.manifest.plan
        wanted = asdict(condition_plan(self._teacher, found.precision, found.shard_size))
        for field, theirs in asdict(found).items():
            if theirs != (ours := wanted[field]):
                raise UserError(
                    f"embed.output: {self._storage.uri()} has the conditions of another "
                    f"{_WORDS.get(field, field)}: {theirs!r}, not {ours!r}; choose another folder "
                    "and run jobs/embed.py"
                )
        check_stored(self._storage, self.manifest)
        return f"{found.count} prompts in {self._storage.uri()}, {found.precision}"

    def conditioner(self) -> Stored:
        """Reads them; raises as `check`."""
        self.check()
        prompts = read_prompts(self._teacher.prompts)
        return Stored(prompts, ConditionReader(self._storage, self.manifest))
