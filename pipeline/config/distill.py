"""The distillation: its losses, networks, workers and cadences."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, create_model

from pipeline.config.terms import (
    BUILT_IN,
    FURTHER,
    TERMS,
    AugmentationConfig,
    DenoisingConfig,
    GANConfig,
    MatchingConfig,
    RegressionConfig,
)
from pipeline.utils.fields import (
    Attention,
    Branch,
    Compile,
    Decay,
    Every,
    Folder,
    Guidance,
    OneOrNone,
    Part,
    Positive,
    Prompts,
    Rate,
    Times,
    registered,
)

_EMBEDDED = "As teacher.embedded_guidance; null: the same value."


def term_settings() -> dict[str, type[Branch]]:
    """Settings of each further term that is known, by its name in `distill.terms`."""
    table = registered(TERMS).items()
    return FURTHER | {name: term.Settings for name, term in table if name not in BUILT_IN}


def _terms(value: Any) -> Any:
    """Each term's settings in the class that it names itself."""
    if not isinstance(value, dict):
        return value
    known = term_settings()
    for name in value:
        if name in BUILT_IN:
            raise ValueError(f"{name} is set in distill.{name}")
        if name not in known:
            raise ValueError(
                f"there is no term {name}; name the module that registers it in plugins"
            )
    fields: dict[str, Any] = {name: (known[name], ...) for name in value}
    return dict(create_model("Terms", __base__=Branch, **fields).model_validate(value))


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
    levels: Literal["all", "step", "above"] = Field(
        default="all",
        description="Noise levels at which matching and critic see the images of one of several "
        "steps: all; step: from its time to the next; above: all from the next (TDM's two ways).",
    )
    embedded_guidance: Guidance = Field(default=None, description=_EMBEDDED)
    lora: LoraConfig = Field(default_factory=LoraConfig)


class CriticConfig(DenoisingConfig):
    """The critic: learns the score of the student's samples."""

    ida: Part = Field(
        default=1.0,
        description="Share of its weights that the critic keeps after each update of the student, "
        "such as 0.98; the rest is the student's (IDA of SenseFlow); 1: all.",
    )
    embedded_guidance: Guidance = Field(default=None, description=_EMBEDDED)
    lora: LoraConfig = Field(default_factory=LoraConfig)


class WorkersConfig(Branch):
    """The Ray Train workers, and the resources of each."""

    min: Positive = Field(default=1, description="Workers at least.")
    max: Positive = Field(default=2, description="Workers at most; no more than distill.lanes.")
    cpus: float = Field(default=1.0, ge=0, description="CPU cores per worker.")
    gpus: OneOrNone = Field(default=0.0, description="GPUs per worker, 0 or 1.")


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
    quantize: Literal["int8", "nf4"] | None = Field(
        default=None,
        description="The frozen weights beneath adapters in 8 bits, or in 4 (nf4, extra `8bit`); "
        "null: as they are.",
    )
    student: StudentConfig = Field(default_factory=StudentConfig)
    regression: RegressionConfig = Field(default_factory=RegressionConfig)
    matching: MatchingConfig = Field(default_factory=MatchingConfig)
    critic: CriticConfig = Field(default_factory=CriticConfig)
    gan: GANConfig = Field(default_factory=GANConfig)
    augmentation: AugmentationConfig = Field(default_factory=AugmentationConfig)
    draws: Literal["separate", "shared"] = Field(
        default="separate",
        description="separate: every loss draws its own noise, as in the papers; shared: losses "
        "reuse each other's noise and passes (the pairs' noises are matched too, and the GAN reads "
        "what the matching and denoising losses diffused).",
    )
    terms: Annotated[dict[str, SerializeAsAny[Branch]], BeforeValidator(_terms)] = Field(
        default={},
        description="Further losses by their names, such as {mine: {weight: 0.1}}; see plugins.",
    )
    conditions: Literal["online", "stored"] = Field(
        default="online",
        description="Of prompts: encoded by the workers, or read from a set of jobs/embed.py, "
        "without text encoders in their memory.",
    )
    log_every: Positive = Field(
        default=50, description="Steps between two lines of the metrics log."
    )
    sample_every: Positive = Field(default=500, description="Steps between two sample grids.")
    sample_prompts: Prompts = Field(
        default=(),
        description="Prompts that the student draws with every sample grid, a few images of each, "
        "always from the same noise; of teachers that take text.",
    )
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
        description="bf16: networks compute with copies of their weights in bf16; the weights that "
        "learn, averages and losses stay in fp32.",
    )
    recompute: Every = Field(
        default=False,
        description="Gradient checkpointing: less memory, a third more time; a number n: of every "
        "n-th block alone, for an n-th of that time.",
    )
    compile: Compile = Field(
        default="auto",
        description="Compile the networks, once for each shape: every block that repeats, or each "
        "network at once; auto: blocks on a GPU, unless sharded, else none.",
    )
    attention: Attention = Field(
        default="native",
        description="Attention by one of diffusers' backends, with precision bf16; _flash_3 is the "
        "teacher's alone, since diffusers has it without a backward pass.",
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
    on_failure: Literal["warn", "stop", "roll_back"] = Field(
        default="warn",
        description="When the run is found failing (docs/failures.md): warn; stop; or go back, "
        "once, to the best or last sound checkpoint, with half the student's rate.",
    )
    workers: WorkersConfig = Field(default_factory=WorkersConfig)

    @property
    def shares_base(self) -> bool:
        """Whether student and critic learn as adapters over the teacher's own weights."""
        return None not in (self.student.lora.rank, self.critic.lora.rank)
