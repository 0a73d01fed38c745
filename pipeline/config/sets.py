"""Sets of pairs, of real images and of conditions, and the actors that make them."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.diffusion.guidance import Guidance
from pipeline.utils.fields import (
    Attention,
    Branch,
    Compile,
    Folder,
    Input,
    Positive,
    Weight,
    one_of,
)

SolverName = Annotated[
    str, one_of("pipeline.diffusion.solver:SOLVERS", "euler", "heun", "dpmpp_2m", "plms")
]
Patience = Annotated[
    float,
    Field(gt=0, le=604800, description="Seconds without a new shard after which the job ends."),
]


class ActorsConfig(Branch):
    """The Ray actors that make shards, and the resources of each."""

    min: Positive = Field(default=1, description="Actors at least.")
    max: Positive = Field(default=2, description="Actors at most.")
    cpus: float = Field(default=1.0, ge=0, description="CPU cores per actor.")
    gpus: float = Field(default=0.0, ge=0, description="GPUs per actor.")


class EvaluateActorsConfig(ActorsConfig):
    """The Ray actors that make and read images, and the resources of each."""

    max: int = Field(
        default=0, ge=0, description="Actors at most; 0: in this process, without Ray."
    )


class IconsConfig(Branch):
    """Drawn icons with captions: a folder of images to learn from, and one held out."""

    output: Folder = Field(default="", description="Folder of the images; null: <run>/icons.")
    names: Positive | None = Field(
        default=50, description="Names, the clearest first; null: all that every style draws."
    )
    size: int = Field(default=32, ge=16, le=512, description="Height and width, in pixels.")
    package: Input | None = Field(
        default=None,
        description="The npm package @iconify/json as a .tgz file; null: npm fetches it.",
    )


class PairsConfig(Branch):
    """The pair set: noise, and the image that the teacher's ODE makes of it."""

    count: Positive = Field(default=5000, description="Pairs in the set, a multiple of shard_size.")
    shard_size: Positive = Field(default=500, description="Pairs per shard (one file, one task).")
    output: Folder = Field(default="", description="Folder of the set; null: <run>/pairs.")
    solver: SolverName = Field(
        default="heun", description="ODE solver of the teacher: euler, heun, dpmpp_2m or plms."
    )
    steps: int = Field(default=18, ge=2, le=1000, description="Solver steps.")
    guidance: float = Field(
        default=1.0, ge=0, le=100, description="Classifier-free guidance scale; 1: none."
    )
    guidance_2: float | None = Field(
        default=None,
        ge=0,
        le=100,
        description="Guidance of the network for less noise, of a teacher of two; null: the same.",
    )
    guidance_until: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Share of the way from noise to image after which there is no guidance.",
    )
    guidance_norm: bool | None = Field(
        default=None,
        description="Whether guidance keeps the prediction's norm, where the teacher's pipeline "
        "leaves the choice (cfg_normalization); null: as it does by default.",
    )
    weights: tuple[Weight, ...] | None = Field(
        default=None,
        strict=False,
        description="Relative frequency of each class; null: all the same.",
    )
    batch_size: Positive | None = Field(
        default=250,
        description="Pairs that an actor solves at once; null: as many as its memory holds.",
    )
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32",
        description="Of the teacher's network; solver, VAE and text encoders are in fp32.",
    )
    compile: Compile = Field(
        default="auto",
        description="Compile the teacher, once for each shape and number of images: every block "
        "that repeats, or all at once; auto: blocks on a GPU, else none.",
    )
    attention: Attention = Field(
        default="native", description="Attention by one of diffusers' backends, in bf16."
    )
    resolve: int = Field(
        default=0,
        ge=0,
        description="With --verify: pairs that the teacher solves again to compare.",
    )
    patience: Patience = 1800.0
    actors: ActorsConfig = Field(default_factory=ActorsConfig)

    @property
    def guided(self) -> Guidance:
        """How the teacher is guided."""
        return Guidance(self.guidance, self.guidance_until, self.guidance_norm, self.guidance_2)


class EncodeConfig(Branch):
    """The set of real images for the GAN: as latents, or as pixels for a pixel teacher."""

    source: str | None = Field(
        default=None,
        min_length=1,
        description="Images: a folder of image, Parquet or WebDataset .tar files, local or in a "
        "bucket.",
    )
    output: Folder = Field(default="", description="Folder of the set; null: <run>/real.")
    size: Positive | None = Field(
        default=None, description="Height and width after cropping, in pixels; null: the teacher's."
    )
    unannotated: Literal["refuse", "skip"] = Field(
        default="refuse",
        description="Images without the caption or label that the teacher needs: refuse the "
        "source, or skip them.",
    )
    shard_size: Positive = Field(default=500, description="Images per shard (one file, one task).")
    max_damaged: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Share of the images that may be unreadable and left out; with more the set is "
        "not closed.",
    )
    patience: Patience = 1800.0
    actors: ActorsConfig = Field(default_factory=ActorsConfig)


class EmbedConfig(Branch):
    """The set of conditions: what the text encoders make of every prompt."""

    output: Folder = Field(default="", description="Folder of the set; null: <run>/conditions.")
    precision: Literal["fp16", "bf16", "fp32"] = Field(
        default="bf16", description="Of stored values; fp32: exactly what the encoders make."
    )
    shard_size: Positive = Field(
        default=250, description="Conditions per shard (one file, one task)."
    )
    patience: Patience = 1800.0
    actors: ActorsConfig = Field(default_factory=ActorsConfig)
