"""Images and networks: the teacher, and small ones from scratch."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from pipeline.utils.fields import (
    Branch,
    Decay,
    Folder,
    NullableText,
    OneOrNone,
    Part,
    Positive,
    Rate,
)

Size = Positive | Annotated[tuple[Positive, ...], Field(strict=False, min_length=2, max_length=3)]


def _one_of_equals(size: int | tuple[int, ...] | None) -> int | tuple[int, ...] | None:
    """A square has one name."""
    return size[0] if isinstance(size, tuple) and size[0:1] == size[1:] else size


class DataConfig(Branch):
    """The real images that a small teacher is trained on."""

    name: Literal["digits", "mnist", "fashion-mnist", "captions"] | None = Field(
        default="digits",
        description="Image set; captions: images with captions of your own; null: none.",
    )
    size: int = Field(default=8, ge=4, le=1024, description="Height and width, in pixels.")
    folder: str | None = Field(
        default=None,
        description="Folder of the IDX files of mnist or fashion-mnist, or of images with captions "
        "(as encode.source; null: the drawn icons), local or in a bucket.",
    )


class NetworkConfig(Branch):
    """A new UNet: of a small teacher, or of student and critic of an analytic one."""

    channels: tuple[Positive, ...] = Field(
        default=(32, 64), strict=False, min_length=1, description="Channels per level."
    )
    layers: int = Field(default=1, ge=1, le=8, description="ResNet blocks per level.")
    attention: tuple[bool, ...] = Field(
        default=(False, True),
        strict=False,
        min_length=1,
        description="Attention per level, true or false.",
    )
    norm_groups: Positive = Field(default=8, description="Groups of each group norm.")


class GaussianConfig(Branch):
    """The analytic teacher: one Gaussian per class, with an exact score."""

    shape: tuple[Positive, Positive, Positive] = Field(
        default=(1, 8, 8), strict=False, description="Channels, height, width, in pixels."
    )
    classes: Positive = Field(default=10, description="Number of classes.")


class AutoencoderConfig(Branch):
    """The VAE of a new text-to-image teacher."""

    channels: tuple[Positive, ...] = Field(
        default=(16, 32, 32),
        strict=False,
        min_length=1,
        description="Channels per level; each level after the first halves the side.",
    )
    latent_channels: Positive = Field(default=8, description="Channels of a latent.")
    norm_groups: Positive = Field(default=8, description="Groups of each group norm.")
    steps: Positive = Field(default=2500, description="Optimiser steps.")
    batch_size: Positive = Field(default=16, description="Images per step.")
    lr: Rate = Field(default=2e-3, description="Learning rate of AdamW.")
    ema: Decay = Field(default=0.99, description="Decay of the weight average, per step.")


class TextConfig(Branch):
    """A new text-to-image teacher: its text encoder, and who trains it."""

    autoencoder: AutoencoderConfig = Field(default_factory=AutoencoderConfig)
    width: Positive = Field(default=96, description="Width of the text encoder.")
    layers: Positive = Field(default=2, description="Layers of the text encoder.")
    heads: Positive = Field(default=4, description="Heads of all attention.")
    dropout: Part = Field(
        default=0.1, description="Share of captions left out, so that guidance can be used."
    )
    workers: Positive = Field(default=2, description="Ray Train workers.")
    cpus: float = Field(default=1.0, ge=0, description="CPU cores per worker.")
    gpus: OneOrNone = Field(default=0.0, description="GPUs per worker, 0 or 1.")
    checkpoint_every: Positive = Field(default=250, description="Steps between checkpoints.")


class TrainingConfig(Branch):
    """Training of a small teacher on the real images."""

    kind: Literal["classes", "text"] = Field(
        default="classes",
        description="A model of classes on pixels, or of captions on the latents of its own VAE.",
    )
    steps: Positive = Field(default=4000, description="Optimiser steps.")
    batch_size: Positive = Field(default=128, description="Images per step.")
    lr: Rate = Field(default=2e-3, description="Learning rate of Adam.")
    ema: Decay = Field(default=0.999, description="Decay of the weight average, per step.")
    p_mean: float = Field(default=-1.2, ge=-10, le=10, description="Mean of ln(sigma).")
    p_std: float = Field(default=1.2, gt=0, le=10, description="Standard deviation of ln(sigma).")
    text: TextConfig = Field(default_factory=TextConfig)


class BucketConfig(Branch):
    """One of several sizes of images or videos, and its share."""

    size: Annotated[tuple[Positive, ...], Field(strict=False, min_length=2, max_length=3)] = Field(
        description="[height, width] in pixels, or [frames, height, width] of videos."
    )
    weight: Positive = Field(default=1, description="How often it comes, beside the others'.")


class TeacherConfig(Branch):
    """The teacher: the frozen model that is distilled."""

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
        description="Prompts of a text-to-image teacher: .txt, .csv, .parquet or a dataset folder; "
        "null for one that is trained here: the captions it learns from.",
    )
    prompt_images: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="Columns of teacher.prompts with the images that a model edits, or starts a "
        "video from: file names, or the images themselves.",
    )
    negative_prompt: NullableText = Field(
        default="",
        description="What guidance steers a text-to-image teacher away from; null: nothing.",
    )
    embedded_guidance: float = Field(
        default=3.5,
        ge=0,
        description="Guidance of a network that takes it as an input (FLUX.1-dev, LCM).",
    )
    image_size: Annotated[Size | None, AfterValidator(_one_of_equals)] = Field(
        default=None,
        description="Pixels a side of a latent teacher's images, or [height, width], or [frames, "
        "height, width] of videos; null: the first of buckets, else its own.",
    )
    buckets: tuple[BucketConfig, ...] = Field(
        default=(),
        strict=False,
        description="Several sizes to learn at: {size: [height, width] or [frames, height, width], "
        "weight: 1} each; then image_size, one of them, is that of pictures and evaluation.",
    )
    file: str | None = Field(
        default=None,
        min_length=1,
        description="File that jobs/teacher.py imports instead of training: NVIDIA's EDM (.pkl) "
        "or a model on latents in one file (.safetensors; needs teacher.base).",
        json_schema_extra={"short": "import"},
    )
    base: str | None = Field(
        default=None,
        min_length=1,
        description="Diffusers folder of the model that a .safetensors file was tuned from: for "
        "configs, tokenizers and what the file does not hold; local, s3://, gs:// or hf://.",
    )
    delay: float = Field(
        default=0.0, ge=0, le=60, description="Seconds added to each gaussian call."
    )
    gaussian: GaussianConfig = Field(default_factory=GaussianConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Of the buckets, each as `image_size` would name it."""
        found = (_one_of_equals(bucket.size) for bucket in self.buckets)
        return tuple(size for size in found if size is not None)

    @property
    def first_size(self) -> Size | None:
        """The size that stands for the teacher: its first bucket's, else `image_size`."""
        return self.sizes[0] if self.buckets else self.image_size

    @property
    def picture_size(self) -> Size | None:
        """The size of pictures, of evaluation and of images beside prompts."""
        return self.image_size or self.first_size
