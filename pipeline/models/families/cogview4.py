"""CogView4: a transformer on latents with GLM, told a time that is not the share of noise."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import diffusers
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import pad

from pipeline.diffusion.condition import Condition
from pipeline.diffusion.noise import Flow, Schedule
from pipeline.models.family import refuse, register_family
from pipeline.models.folder import ModelFolder
from pipeline.models.latent_transformer import LatentTransformer
from pipeline.models.own_steps import SPACINGS
from pipeline.models.schedulers import completed

_SCHEDULER = "FlowMatchEulerDiscreteScheduler"


@register_family
class CogView4(LatentTransformer):
    """A `CogView4Transformer2DModel`.

    Its pipeline names whole training times, and shifts the noise at them alone.

    Source: Zheng et al., 2024, arXiv 2403.05121 (CogView3), and diffusers' `CogView4Pipeline`.
    """

    family = "cogview4"
    pipelines = ("CogView4Pipeline",)
    takes = {Flow: ("flow_prediction",)}
    shifts_by_size = True
    widths: ClassVar = {"text_embed_dim": {"text_encoder.hidden_size": 1}}

    def __init__(self, backbone: Any, *rest: Any) -> None:
        super().__init__(backbone, *rest)
        for block in backbone.transformer_blocks:
            block.attn1.set_processor(_Attention())

    @classmethod
    def read_schedule(cls, config: Mapping[str, Any], tokens: int) -> tuple[Schedule, str]:
        schedule, prediction = super().read_schedule(config, tokens)
        if not isinstance(schedule, Flow) or schedule.spacing == "multistep":
            return schedule, prediction
        config, shift = completed(config), schedule.shift
        if config.get("use_dynamic_shifting"):
            ratio = (tokens / config["base_image_seq_len"]) ** 0.5
            mu = config["base_shift"] + config["max_shift"] * ratio
            shift = float(mu if config["time_shift_type"] == "linear" else math.exp(mu))
        return replace(schedule, shift=shift, spacing="whole"), prediction

    @classmethod
    def check_noise(cls, folder: ModelFolder, schedule: Schedule, prediction: str) -> None:
        super().check_noise(folder, schedule, prediction)
        assert isinstance(schedule, Flow)
        if (name := folder.scheduler["_class_name"]) != _SCHEDULER:
            refuse(folder, f"its scheduler is {name}, not {_SCHEDULER}, which its pipeline needs")
        if schedule.respaced:
            moving = next(filter(folder.scheduler.get, (*SPACINGS, "shift_terminal")))
            refuse(folder, f"its scheduler has {moving}, and its network is told times without")

    @staticmethod
    def encode(pipe: Any, texts: list[str], negative: bool, device: torch.device) -> Condition:
        tokens, _ = pipe.encode_prompt(texts, None, False, device=device)
        return Condition({"tokens": tokens, "mask": tokens.new_ones(tokens.shape[:2])})

    def inputs(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return x_t, self._told(t)

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        assert isinstance(self.schedule, Flow)
        size = x_t.new_tensor([self.size]).expand(len(x_t), 2)
        output: Tensor = self.backbone(
            hidden_states=x_t,
            encoder_hidden_states=condition["tokens"].to(x_t.dtype),
            timestep=(t * self.schedule.steps_table).round(),
            original_size=size,
            target_size=size,
            crop_coords=torch.zeros_like(size),
            attention_mask=condition["mask"],
        ).sample
        return output

    def of_image(self, output: Any, x_t: Tensor, condition: Condition) -> Tensor:
        """A block gives the image's stream first."""
        return super().of_image(output[0], x_t, condition)

    def pipeline(self) -> "diffusers.DiffusionPipeline":
        """With the teacher's scheduler: what its shift makes of the times told is the noise."""
        made, kind = super().pipeline(), getattr(diffusers, _SCHEDULER)
        fresh = self.sampler.renoise and len(self.sampler.timesteps) > 1
        made.register_modules(scheduler=kind.from_config(self.scheduler, stochastic_sampling=fresh))
        return made

    @property
    def call_settings(self) -> dict[str, Any] | None:
        settings = super().call_settings
        if settings is None or "sigmas" not in settings:
            return settings
        assert isinstance(self.schedule, Flow)
        told = self._told(torch.tensor(settings["sigmas"], dtype=torch.float64)).tolist()
        whole = [round(time * self.schedule.steps_table) for time in told]
        return settings | {"sigmas": told, "timesteps": whole}

    def _told(self, t: Tensor) -> Tensor:
        """The share of noise before the shift, which the network is told."""
        assert isinstance(self.schedule, Flow)
        shift = self.schedule.shift
        return t / (shift - (shift - 1) * t)


class _Attention:
    """As diffusers' `CogView4AttnProcessor`, but that no token sees the padding of a text.

    diffusers adds its mask of zeros and ones to the scores, which leaves out nothing.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        image_rotary_emb: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Image (B, N, D) and text (B, L, D), of both and the text's mask (B, L)."""
        rotate = diffusers.models.embeddings.apply_rotary_emb
        text, both = encoder_hidden_states.shape[1], [encoder_hidden_states, hidden_states]
        tokens = torch.cat(both, dim=1)
        query, key, value = (
            each(tokens).unflatten(2, (attn.heads, -1)).transpose(1, 2)
            for each in (attn.to_q, attn.to_k, attn.to_v)
        )
        query, key = (
            torch.cat(
                [
                    each[:, :, :text],
                    rotate(each[:, :, text:], image_rotary_emb, use_real_unbind_dim=-2),
                ],
                dim=2,
            ).to(value.dtype)
            for each in (attn.norm_q(query), attn.norm_k(key))
        )
        mask = None
        if attention_mask is not None:
            mask = pad(attention_mask, (0, hidden_states.shape[1]), value=1).bool()[:, None, None]
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        made = attn.to_out[0](mixed.transpose(1, 2).flatten(2, 3))
        return made[:, text:], made[:, :text]
