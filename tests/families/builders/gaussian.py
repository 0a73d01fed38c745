"""The analytic teacher, which has no files."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.config import TeacherConfig
from tests.families.builder import Builder


@dataclass(frozen=True, kw_only=True)
class Analytic(Builder):
    def teacher(self, folder: Path, prompts: Path) -> TeacherConfig:
        return TeacherConfig.model_validate(self.settings)


BUILDERS: dict[str, Builder] = {
    "gaussian": Analytic(
        family="gaussian",
        make=None,
        settings={"kind": "gaussian", "gaussian": {"shape": [1, 8, 8], "classes": 3}},
        labels=(2, 0),
        channels=1,
    )
}
