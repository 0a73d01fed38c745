"""The reward term: the student's images shall also win what a reward model gives them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from pipeline.config.terms import RewardConfig
from pipeline.diffusion.condition import Conditioner
from pipeline.methods.samples import SamplesSeen
from pipeline.methods.terms.term import Held, Term
from pipeline.utils.errors import UserError, first_line
from pipeline.utils.fields import Branch

Captions = Sequence[str] | Tensor | None
"""Of images: their prompts; their classes, (B,) int64; None of a teacher that has neither."""

REWARDS: dict[str, Callable[[], nn.Module]] = {}
"""Name -> what makes it; `REWARDS["mine"] = Mine`, in a module named in `plugins`, adds one.

Called as (images, captions), with images (B, 1 or 3, H, W), or of videos (B, 3, F, H, W), in about
[-1, 1], it gives the reward of each, (B,), more being better, whatever others are beside it. It
also runs on the meta device, where its memory is counted.
"""


class Decoder(Protocol):
    """What makes images of latents; see `pipeline.models.vae.VAE`."""

    vae: nn.Module

    def decode(self, latents: Tensor) -> Tensor:
        """Images of latents; gradients flow."""

    def at_meta(self) -> Decoder:
        """A copy on the meta device."""


@dataclass(frozen=True)
class Reward(Term[RewardConfig]):
    r"""-E[r(x)] of the student's images x, through the decoder of latents.

    With KL(p || q) of student and teacher it is KL(p || q exp(r / beta)) up to a constant, at
    weight 1 / beta; matching has weights of its own beside.

    Args:
        model: What `reward` in the settings names, frozen, on the student's device.
        latents: Decodes latents; None where they are images.
        conditioner: Knows what labels stand for.

    Source: DMDR (Jiang et al., 2025), arXiv 2511.13649, with the reward's gradient (ReFL).
    """

    Settings: ClassVar[type[Branch]] = RewardConfig

    model: nn.Module = field(default_factory=nn.Identity)
    latents: Decoder | None = None
    conditioner: Conditioner = field(default_factory=Conditioner)

    @property
    def weight(self) -> float:
        """In the third phase."""
        return self.settings.weight

    def tried(self, shape: tuple[int, ...]) -> Reward:
        """The term, whose model has seen one sample of a shape (C, H, W) on the meta device.

        Raises:
            UserError: If the model fails there, or gives the image no reward or no gradient.
        """
        setting = f"distill.terms.{self.name}.reward: {self.settings.reward}"
        try:
            reward = self.held(shape, 1).call()
        except Exception as error:  # whatever a model from outside may come to
            raise UserError(f"{setting} fails: {first_line(error)}; mend it") from error
        if reward.shape != (1,):
            raise UserError(f"{setting} gives {tuple(reward.shape)} of one image; give (1,)")
        if not reward.requires_grad:
            raise UserError(
                f"{setting} gives the image no gradient, without which only a student that draws "
                "its steps at random can learn; name one that can be differentiated"
            )
        return self

    def sample_loss(self, seen: SamplesSeen) -> tuple[Tensor, dict[str, Tensor]]:
        """One image after the other, in the memory of one; of the loss only the gradient counts."""
        labels, rewards, gradients = seen.microbatch.labels, list[Tensor](), list[Tensor]()
        for row, sample in enumerate(seen.x0.detach().split(1)):
            own = None if labels is None else labels[row : row + 1]
            reward = self.rewards(sample.requires_grad_(), own)
            gradients += torch.autograd.grad(reward.sum(), sample)
            rewards.append(reward.detach())
        loss = -(seen.x0 * torch.cat(gradients)).sum() / len(rewards)
        return loss, {self.name: torch.cat(rewards).mean()}

    def rewards(self, x0: Tensor, labels: Tensor | None) -> Tensor:
        """(B,), of samples (B, C, H, W) and their labels (B,)."""
        images = x0.float() if self.latents is None else self.latents.decode(x0.float())
        captions: Captions = labels
        if (prompts := self.conditioner.prompts) is not None and labels is not None:
            captions = [prompts[number] for number in labels.tolist()]
        rewards: Tensor = self.model(images, captions)
        return rewards

    def held(self, shape: tuple[int, ...], rows: int) -> Held:
        """The model, and what one image keeps in decoder and model."""
        latents = None if self.latents is None else self.latents.at_meta()
        term = replace(self, model=copy.deepcopy(self.model).to("meta"), latents=latents)
        x0, labels = torch.empty((1, *shape), device="meta", requires_grad=True), None
        if self.conditioner.classes is not None:
            known = "meta" if self.conditioner.prompts is None else "cpu"
            labels = torch.zeros(1, dtype=torch.int64, device=known)
        decoders = [] if latents is None else [latents.vae]
        return Held([term.model], lambda: term.rewards(x0, labels), 1, decoders)
