#!/usr/bin/env python3
"""What a step of the large recipes, and making their pairs, takes on one GPU: time and memory.

Networks have the shapes of Stable Diffusion 1.5 and XL, random weights, and noise for real latents,
which change neither time nor memory. Every case is a recipe of `configs/` as one worker runs a lane
of it, or so many images: a turn of the student and its critic's steps, after one step to warm up.
Or it makes a shard of so many pairs, after one to warm up, in `STEPS` steps of the recipe's solver
and in a batch that memory holds; at the end stands how many times as fast they are in bf16.

    python bench/gpu.py [--only sdxl] [--json FILE]

images/s    through the whole turn
s/step      of the critic's steps, the student's among them
GiB         the most that PyTorch held
foreseen    what `jobs/doctor.py` counts; PyTorch's workspace and kernels come on top
reserve     seconds at the start, once, for the memory that checkpoints are copied to
copy        seconds that a turn takes longer beside the first checkpoint's copy
again       the same for a later one
batch       pairs that were solved at once
"""

import argparse
import copy
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from prove import ROOT
from train import seconds
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from pipeline.cli import load
from pipeline.config import Config
from pipeline.data import shards
from pipeline.data.local import LocalStore
from pipeline.models.denoiser import Denoiser
from pipeline.models.loading import load_teacher
from pipeline.runs.host_copy import HostCopy
from pipeline.runs.run import Run
from pipeline.stages import pairs
from pipeline.training import build
from pipeline.training.hooks import EMA
from pipeline.training.memory import footprint

Figures = dict[str, float]


@dataclass(frozen=True)
class Case:
    """A recipe as one worker runs it.

    Attributes:
        model: Whose shapes: "sd15" or "sdxl".
        recipe: File in `configs/`.
        images: Of a step, or of a shard.
        settings: Other changes in `distill`.
        pairs: The precision of pairs, if these are made; else it trains.
    """

    model: str
    recipe: str
    images: int
    settings: tuple[str, ...] = ()
    pairs: str | None = None


STEPS, FASTER = 10, 6
"""Of the solver; and how many times as fast pairs in bf16 are made, at least."""
SECOND = ("gan.real=encoded", "gan.student_weight=1e-3", "gan.critic_weight=1e-2")
CASES = {
    "sd15-dmd2, a lane": Case("sd15", "sd15-dmd2", 32),
    "sd15-dmd2, second stage (GAN), a lane": Case("sd15", "sd15-dmd2", 32, SECOND),
    "sd15-dmd2, 8 images": Case("sd15", "sd15-dmd2", 8),
    "sd15-dmd2, 8 images, no recompute": Case("sd15", "sd15-dmd2", 8, ("recompute=false",)),
    "sdxl-lora, a lane": Case("sdxl", "sdxl-lora", 2),
    "sdxl-lora, 8 images": Case("sdxl", "sdxl-lora", 8),
    "sd15, pairs in fp32": Case("sd15", "sd15", 64, pairs="fp32"),
    "sd15, pairs in bf16": Case("sd15", "sd15", 64, pairs="bf16"),
    "sdxl, pairs in fp32": Case("sdxl", "sdxl", 16, pairs="fp32"),
    "sdxl, pairs in bf16": Case("sdxl", "sdxl", 16, pairs="bf16"),
}


def tokenizer() -> CLIPTokenizer:
    """Knows letters."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{each}</w>" for each in letters), "<|startoftext|>", "<|endoftext|>"]
    vocab = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)


def text(width: int, layers: int, heads: int, **more: Any) -> CLIPTextConfig:
    """A text encoder of CLIP."""
    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        bos_token_id=52,
        eos_token_id=53,
        pad_token_id=53,
        **more,
    )


def vae(scaling: float) -> AutoencoderKL:
    """Of both models."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        scaling_factor=scaling,
    )


BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def sd15() -> StableDiffusionPipeline:
    """Stable Diffusion 1.5."""
    return StableDiffusionPipeline(
        vae=vae(0.18215),
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768),
        tokenizer=tokenizer(),
        text_encoder=CLIPTextModel(text(768, 12, 12)),
        scheduler=PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl() -> StableDiffusionXLPipeline:
    """Stable Diffusion XL."""
    unet = UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=1280 + 6 * 256,
    )
    return StableDiffusionXLPipeline(
        vae=vae(0.13025),
        unet=unet,
        tokenizer=tokenizer(),
        text_encoder=CLIPTextModel(text(768, 12, 12)),
        tokenizer_2=tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(text(1280, 32, 20, projection_dim=1280)),
        scheduler=EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1),
        add_watermarker=False,
    )


MODELS: dict[str, Callable[[], Any]] = {"sd15": sd15, "sdxl": sdxl}


def save_model(folder: Path, model: str) -> None:
    """Save a model of random weights, and prompts."""
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        pipe = MODELS[model]()
    pipe.save_pretrained(folder / model)
    lines = [json.dumps(f"prompt {letter}") for letter in "abcdefgh"]
    (folder / "prompts").write_text("\n".join(lines))


def configured(folder: Path, case: Case) -> Config:
    """The case's settings."""
    settings = {
        "run": str(folder / "run"),
        "teacher.output": str(folder / case.model),
        "teacher.prompts": str(folder / "prompts"),
        "distill.batch_size": str(case.images),
        "distill.regression.batch_size": str(case.images),
        "distill.lanes": "1",
        "distill.workers.max": "1",
        **{f"distill.{key}": value for key, value in (s.split("=") for s in case.settings)},
    }
    if case.pairs:
        settings |= {"pairs.count": str(2 * case.images), "pairs.shard_size": str(case.images)}
        settings |= {"pairs.steps": str(STEPS), "pairs.precision": case.pairs}
    flags = [f"--{key}={value}" for key, value in settings.items()]
    return load("gpu", [f"--config={ROOT / f'configs/{case.recipe}.yaml'}", *flags])[0]


def prepare(config: Config, teacher: Denoiser) -> build.TrainingRun:
    """As a worker does, but with a teacher in memory and noise for real latents."""
    size = config.distill.batch_size
    real = torch.randn(size, *teacher.shape), torch.zeros(size, dtype=torch.int64)
    source = None if config.distill.gan.real is None else lambda index: real
    with (
        mock.patch.object(Run, "load_teacher", lambda _: deepcopy(teacher)),
        mock.patch.object(Run, "fingerprint", "bench"),
        mock.patch.object(build, "new_source", lambda *_: source),
    ):
        return build.prepare(config)


def measure(config: Config, teacher: Denoiser) -> Figures:
    """Run a case."""
    torch.cuda.reset_peak_memory_stats()
    training, cycle = prepare(config, teacher), config.distill.student.every
    ema = EMA(training)
    training.step(0, training.microbatches(0), ema.after_student_update)
    torch.cuda.synchronize()

    def one_cycle(before: Callable[[int], None] = lambda _: None) -> None:
        for number in range(cycle, 2 * cycle):
            training.step(number, training.microbatches(number), ema.after_student_update, before)
        torch.cuda.synchronize()

    whole = seconds(one_cycle)
    held = torch.cuda.max_memory_allocated()
    begin = time.perf_counter()
    copy = HostCopy(training.state)
    reserve = time.perf_counter() - begin

    def beside_a_copy() -> None:
        copy.begin()
        one_cycle(lambda _: copy.before_change())

    first, again = (seconds(beside_a_copy) - whole for _ in range(2))
    return {
        "images/s": config.distill.batch_size * cycle / whole,
        "s/step": whole / cycle,
        "GiB": held / 2**30,
        "foreseen": footprint(config, teacher).total / 2**30,
        "reserve": reserve,
        "copy": first,
        "again": again,
    }


def measure_pairs(config: Config, teacher: Denoiser) -> Figures:
    """Make two shards with a teacher in memory, and time the second."""
    torch.cuda.reset_peak_memory_stats()
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(pairs, "load_teacher", lambda _: copy.deepcopy(teacher)),
        mock.patch.object(pairs, "teacher_fingerprint", lambda _: "bench"),
    ):
        plan = pairs.pair_plan(config.teacher, config.pairs, config.seed)
        shards.open_plan(store := LocalStore(Path(folder)), plan)
        maker = pairs.PairMaker(config.teacher, plan, store, config.pairs.batch_size)
        maker.make(0)
        spent = seconds(partial(maker.make, 1))
    return {
        "images/s": plan.shard_size / spent,
        "GiB": torch.cuda.max_memory_allocated() / 2**30,
        "batch": maker.batch_size,
    }


def run(model: str, cases: dict[str, Case]) -> Iterator[tuple[str, Figures]]:
    """The figures of all cases of a model."""
    if not cases:
        return
    with tempfile.TemporaryDirectory() as name:
        save_model(Path(name), model)
        configs = {title: configured(Path(name), case) for title, case in cases.items()}
        teacher = load_teacher(next(iter(configs.values())).teacher)
        for title, config in configs.items():
            yield title, (measure_pairs if cases[title].pairs else measure)(config, teacher)
            gc.collect()
            torch.cuda.empty_cache()


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="the cases whose name holds this")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    card, found = torch.cuda.get_device_name(), {}
    print(card, "torch", torch.__version__, flush=True)
    for model in MODELS:
        cases = {t: c for t, c in CASES.items() if c.model == model and arguments.only in t}
        for title, figures in run(model, cases):
            print(title, {key: float(f"{value:.3g}") for key, value in figures.items()}, flush=True)
            found[title] = figures
    for model in MODELS:
        fp32, bf16 = (found.get(f"{model}, pairs in {each}") for each in ("fp32", "bf16"))
        if fp32 and bf16:
            times = bf16["images/s"] / fp32["images/s"]
            print(f"{model}: pairs in bf16 {times:.3g} times as fast as in fp32, bar {FASTER}")
    if arguments.json:
        content = {"card": card, "torch": torch.__version__, "cases": found}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
