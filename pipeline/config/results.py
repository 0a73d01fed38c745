"""What is made of a student: exports, figures, samples, reports; and where things are kept."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.sets import EvaluateActorsConfig
from pipeline.utils.fields import Branch, Folder, Input, Model, Positive, one_of

SCORES = "pipeline.models.scores:SCORES"
BUILT_IN = ("clip", "pick", "hps", "objects")
"""The table of scores, and the names in it that no plugin has added."""


class ExportConfig(Branch):
    """Saving the student of any checkpoint, also while the run goes on."""

    output: Folder = Field(
        default="", description="Diffusers folder, local, s3:// or gs://; null: <run>/export."
    )
    step: Positive | None = Field(
        default=None, description="Step of the checkpoint; null: as distill.pick says."
    )
    weights: Literal["ema", "raw"] = Field(
        default="ema", description="Which weights: averaged (ema) or not (raw)."
    )
    variant: Literal["fp16"] | None = Field(
        default=None, description="fp16: half-precision weights beside the full ones."
    )
    comfyui: bool = Field(
        default=False, description="Add the model or its LoRA, and a workflow, for ComfyUI."
    )
    push: str | None = Field(
        default=None,
        min_length=1,
        description="Repository on the Hugging Face Hub to push to, owner/name.",
        json_schema_extra={"short": "push-to-hub"},
    )
    private: bool = Field(
        default=True, description="Whether a repository that the push creates is private."
    )


class EvaluateConfig(Branch):
    """The comparison of student, teacher and real images."""

    output: Folder = Field(default="", description="Folder of the results; null: <run>.")
    student: Folder = Field(
        default="", description="The student's folder; null: <distill.output>/student."
    )
    count: int = Field(
        default=10_000, ge=10, description="Images compared, per network and of the reference."
    )
    batch_size: Positive = Field(default=500, description="Images made at once.")
    features: Literal["classifier", "inception", "efficientnet-lite0", "dinov2"] = Field(
        default="classifier",
        description="Features to compare images in: a classifier's, trained on data.name (raw "
        "values without one), or a public network's.",
    )
    weights: Model | None = Field(
        default=None,
        description="Its weights: a file, for dinov2 a folder or owner/name@commit on the Hub; "
        "null: the package's, for inception a download.",
    )
    reference: str | None = Field(
        default=None,
        min_length=1,
        description="Real images to compare with, if there is no data.name: a folder of image, "
        "Parquet or WebDataset .tar files, local or in a bucket.",
    )
    judged: dict[str, Annotated[tuple[str, ...], Field(strict=False, min_length=1)]] = Field(
        default={},
        description="What a judge trained on data.folder reads from images: figure -> columns of "
        "the metadata.csv there, {names: [name], attributes: [size]}; {}: nothing.",
    )
    guidances: tuple[Annotated[float, Field(ge=0, le=100)], ...] = Field(
        default=(),
        strict=False,
        description="Further guidances at which the teacher's images are judged beside those at "
        "pairs.guidance.",
    )
    held_out: Input | None = Field(
        default=None,
        description="Folder of images of combinations that no network has seen, with a "
        "metadata.csv; null: the drawn icons'.",
    )
    clip: Model | None = Field(
        default=None,
        description="Short for clip in evaluate.scores.",
    )
    scores: dict[Annotated[str, one_of(SCORES, *BUILT_IN)], Model] = Field(
        default={},
        description="Published scores of images by their prompts: name -> its weights, a folder, "
        "local or in a bucket, or owner/name@commit on the Hub: {clip: models/clip}; known are "
        f"{', '.join(BUILT_IN)}.",
    )
    patience: float = Field(
        default=1800.0,
        gt=0,
        le=604800,
        description="Seconds without a new batch after which the job ends.",
    )
    actors: EvaluateActorsConfig = Field(default_factory=EvaluateActorsConfig)

    @property
    def scored(self) -> dict[str, str]:
        """`scores`, with `clip` among them."""
        return ({} if self.clip is None else {"clip": self.clip}) | self.scores


class SampleConfig(Branch):
    """One-step images of the student in `evaluate.student`: a sheet, or a page in the browser."""

    output: Folder = Field(default="", description="The PNG file; null: <run>/samples.png.")
    count: int = Field(default=100, gt=0, le=1000, description="Images on the sheet.")
    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="With --interactive: address to listen on; the default answers this machine "
        "only.",
    )
    port: int = Field(
        default=8000, ge=0, le=65535, description="With --interactive: port; 0: any free one."
    )


class ReportConfig(Branch):
    """The report of a run: one HTML file with curves, images, figures, timeline and verdict."""

    runs: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="Folders of runs, local or in a bucket; several are shown side by side; none: "
        "`run`.",
    )
    output: str | None = Field(
        default=None,
        min_length=1,
        description="The HTML file; null: report.html in the run's folder; here for several runs "
        "or one in a bucket.",
    )


class S3Config(Branch):
    """Where s3:// is; boto3 finds the credentials (environment, profile, machine role)."""

    endpoint: str | None = Field(
        default=None, description="URL of a server other than Amazon's (MinIO, Ceph, R2)."
    )
    region: str | None = Field(default=None, description="Region; null: the environment's.")
    profile: str | None = Field(
        default=None, description="Profile of the AWS configuration; null: the environment's."
    )


class DoctorConfig(Branch):
    """The check before a run, and the prices of its estimate."""

    patience: float = Field(
        default=300.0, gt=0, description="Seconds to wait for a worker, such as a new machine."
    )
    gpu_hour: float = Field(default=1.0, ge=0, description="Price of a GPU for an hour.")
    cpu_hour: float = Field(default=0.05, ge=0, description="Price of a CPU core for an hour.")
    gib_month: float = Field(default=0.023, ge=0, description="Price of a GiB stored for a month.")
