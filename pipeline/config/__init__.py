"""One typed, frozen tree of every setting; each room's builder gets its own branch.

Across Ray it travels as `config.model_dump(mode="json")` and comes back through
`Config.model_validate`.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from pydantic import Field, model_validator

from pipeline.config import folder_rules, rules
from pipeline.config.distill import (
    CriticConfig,
    DistillConfig,
    LoraConfig,
    ScoringConfig,
    StudentConfig,
    WorkersConfig,
)
from pipeline.config.networks import (
    AutoencoderConfig,
    BucketConfig,
    DataConfig,
    GaussianConfig,
    NetworkConfig,
    TeacherConfig,
    TextConfig,
    TrainingConfig,
)
from pipeline.config.results import (
    DoctorConfig,
    EvaluateConfig,
    ExportConfig,
    ReportConfig,
    S3Config,
    SampleConfig,
)
from pipeline.config.sets import (
    ActorsConfig,
    EmbedConfig,
    EncodeConfig,
    EvaluateActorsConfig,
    IconsConfig,
    PairsConfig,
)
from pipeline.config.term_rules import term_problems
from pipeline.config.terms import GANConfig, MatchingConfig, RegressionConfig
from pipeline.config.text_rules import text_problems
from pipeline.utils.fields import Branch
from pipeline.utils.uris import absolute, is_remote

__all__ = [
    "ActorsConfig",
    "AutoencoderConfig",
    "BucketConfig",
    "Config",
    "CriticConfig",
    "DataConfig",
    "DistillConfig",
    "DoctorConfig",
    "EmbedConfig",
    "EncodeConfig",
    "EvaluateActorsConfig",
    "EvaluateConfig",
    "ExportConfig",
    "GANConfig",
    "GaussianConfig",
    "IconsConfig",
    "LoraConfig",
    "MatchingConfig",
    "NetworkConfig",
    "PairsConfig",
    "RegressionConfig",
    "ReportConfig",
    "S3Config",
    "SampleConfig",
    "ScoringConfig",
    "StudentConfig",
    "TeacherConfig",
    "TextConfig",
    "TrainingConfig",
    "WorkersConfig",
]


def _import(plugins: Iterable[str]) -> None:
    for name in plugins:
        try:
            import_module(name)
        except Exception as error:
            raise ValueError(
                f"plugins: {name} cannot be imported ({error!r}); give the name of a module that "
                "is on PYTHONPATH on every node"
            ) from error


class Config(Branch):
    """Every setting of a run."""

    seed: int = Field(
        default=0, ge=0, le=2**32 - 1, description="Seed of every random number of the run."
    )
    run: str = Field(
        default="runs/digits", min_length=1, description="Folder of all the run's outputs."
    )
    plugins: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="Modules of your own that register terms, families, hooks and their like; "
        "every process must find them on PYTHONPATH.",
    )
    icons: IconsConfig = Field(default_factory=IconsConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    network: NetworkConfig = Field(default_factory=NetworkConfig)
    teacher: TeacherConfig = Field(default_factory=TeacherConfig)
    pairs: PairsConfig = Field(default_factory=PairsConfig)
    encode: EncodeConfig = Field(default_factory=EncodeConfig)
    embed: EmbedConfig = Field(default_factory=EmbedConfig)
    distill: DistillConfig = Field(default_factory=DistillConfig)
    export: ExportConfig = Field(default_factory=ExportConfig)
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    sample: SampleConfig = Field(default_factory=SampleConfig)
    report: ReportConfig = Field(default_factory=ReportConfig)
    s3: S3Config = Field(default_factory=S3Config)
    doctor: DoctorConfig = Field(default_factory=DoctorConfig)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of an image of the teacher this tree describes."""
        if self.teacher.kind == "gaussian":
            return self.teacher.gaussian.shape
        return (1, self.data.size, self.data.size)

    @property
    def report_file(self) -> str:
        """The page of a report: beside the one run that it shows; of several, in this folder."""
        shown = self.report.runs or (self.evaluate.output,)
        apart = len(shown) > 1 or is_remote(shown[0])
        return self.report.output or ("report.html" if apart else f"{shown[0]}/report.html")

    @model_validator(mode="before")
    @classmethod
    def _first(cls, tree: Any) -> Any:
        """Before any setting is read: no message repeats credentials; plugins register names."""
        for problem in rules.credential_problems(tree):
            raise ValueError(problem)
        plugins = tree.get("plugins") if isinstance(tree, dict) else None
        _import(plugins if isinstance(plugins, list | tuple) else ())
        return tree

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """A copy in another process knows the plugins too."""
        super().__setstate__(state)
        _import(self.plugins)

    @model_validator(mode="after")
    def _places(self) -> Config:
        run = self.__dict__["run"] = absolute(self.run)
        self._fill("icons", output=f"{run}/icons")
        icons = f"{self.icons.output}/train"
        captions = self.data.folder or f"{icons}/metadata.csv"
        if self.data.name == "captions":
            self._fill("data", folder=icons)
        elif self.data.folder:
            self._fill("data", folder=self.data.folder)
        if self.teacher.training.kind == "text":
            self._fill("teacher", prompts=captions)
        if self.teacher.file:
            self._fill("teacher", file=self.teacher.file)
        if self.teacher.base:
            self._fill("teacher", base=self.teacher.base)
        if self.distill.start_from:
            self._fill("distill", start_from=self.distill.start_from)
        if self.teacher.prompts:
            self._fill("teacher", prompts=self.teacher.prompts)
        if self.encode.source:
            self._fill("encode", source=self.encode.source)
        if self.data.name == "captions":
            self._fill("evaluate", reference=self.data.folder or "")
            self._fill("evaluate", held_out=f"{self.icons.output}/held-out")
        elif self.evaluate.reference:
            self._fill("evaluate", reference=self.evaluate.reference)
        self._fill("teacher", output=f"{run}/teacher")
        self._fill("pairs", output=f"{run}/pairs")
        self._fill("encode", output=f"{run}/real")
        self._fill("embed", output=f"{run}/conditions")
        self._fill("distill", output=f"{run}/distill")
        self._fill("export", output=f"{run}/export")
        self._fill("evaluate", output=run, student=f"{self.distill.output}/student")
        self._fill("sample", output=f"{run}/samples.png")
        return self

    def _fill(self, name: str, **folders: str) -> None:
        branch = getattr(self, name)
        filled = {
            field: absolute(getattr(branch, field) or path) for field, path in folders.items()
        }
        self.__dict__[name] = branch.model_copy(update=filled)

    @model_validator(mode="after")
    def _agreement(self) -> Config:
        for problem in self._problems():
            raise ValueError(problem)
        return self

    def _problems(self) -> rules.Problems:
        data, teacher, distill, evaluate = self.data, self.teacher, self.distill, self.evaluate
        branches = (
            "icons",
            "teacher",
            "pairs",
            "encode",
            "embed",
            "distill",
            "export",
            "evaluate",
            "sample",
        )
        outputs = {branch: getattr(self, branch).output for branch in branches}
        yield from rules.network_problems(self.network, teacher, self.shape)
        yield from text_problems(data, teacher, self.network)
        yield from rules.gaussian_problems(teacher, distill)
        yield from rules.size_problems(teacher)
        yield from rules.pairs_problems(self.pairs, self.teacher)
        actors = {name: getattr(self, name).actors for name in ("pairs", "encode", "embed")}
        yield from rules.range_problems(actors, distill, evaluate)
        yield from rules.distill_problems(distill)
        yield from rules.conditions_problems(distill, teacher)
        yield from rules.gan_problems(distill, data, teacher)
        yield from term_problems(distill, self.pairs.guidance)
        yield from rules.evaluate_problems(evaluate, data, teacher)
        yield from folder_rules.overlap_problems(
            "encode.source", self.encode.source, outputs["encode"]
        )
        yield from folder_rules.overlap_problems(
            "evaluate.reference", evaluate.reference, outputs["evaluate"]
        )
        yield from folder_rules.export_problems(self.export.push, outputs)
        yield from folder_rules.bucket_problems(
            {name: getattr(self, name).output for name in ("evaluate", "sample", "report")}
        )
