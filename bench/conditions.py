#!/usr/bin/env python3
"""What stored conditions cost: bytes beyond their values, and reading beside a training step.

    python bench/conditions.py

For the conditions of three models, their real shapes and random values: bytes of the files beyond
the raw values; rows that `Stored` gives in a second of CPU time, drawn at random from the page
cache by one thread; that over the rows that steps of a small UNet take in a second, measured in
turn, the median of 3; and over the most that training was measured to take on a GPU, 42.4 images a
second of Stable Diffusion 1.5 on one H100 (docs/training.md). Larger models take fewer.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.cli import load  # noqa: E402
from pipeline.config import S3Config  # noqa: E402
from pipeline.data import conditions, shards  # noqa: E402
from pipeline.data.conditions import ConditionReader  # noqa: E402
from pipeline.data.plans import ConditionPlan  # noqa: E402
from pipeline.data.storage import Storage  # noqa: E402
from pipeline.diffusion.condition import Condition  # noqa: E402
from pipeline.diffusion.noise import Flow  # noqa: E402
from pipeline.methods.dmd import DMD  # noqa: E402
from pipeline.methods.recipe import Recipe  # noqa: E402
from pipeline.models.condition import Stored  # noqa: E402
from pipeline.models.network import Network  # noqa: E402

BATCH, ROUNDS, GPU_ROWS = 2, 3, 42.4
BARS = {"bytes": 1.01, "ratio": 20.0}
SHAPE = (4, 16, 16)


def clip(rng: torch.Generator) -> Condition:
    """As Stable Diffusion 1.5's: 77 tokens."""
    return Condition({"tokens": torch.randn(1, 77, 768, generator=rng)})


def gemma(rng: torch.Generator) -> Condition:
    """As SANA's: 20 to 120 of 300 tokens count."""
    counted = int(torch.randint(20, 121, (), generator=rng))
    mask = (torch.arange(300) < counted).long()[None]
    return Condition({"tokens": torch.randn(1, 300, 2304, generator=rng), "mask": mask})


def t5(rng: torch.Generator) -> Condition:
    """As FLUX.1's: 512 tokens, all of which are read."""
    tokens, pooled = torch.randn(1, 512, 4096, generator=rng), torch.randn(1, 768, generator=rng)
    return Condition({"tokens": tokens, "pooled": pooled})


CASES: dict[str, tuple[Callable[[torch.Generator], Condition], int]] = {
    "sd15": (clip, 1000),
    "sana": (gemma, 400),
    "flux": (t5, 50),
}
"""Name -> a condition, and prompts in the set."""


def make(folder: Path, name: str) -> tuple[ConditionReader, float]:
    """A closed set in bf16, and the bytes of its files by those of its values."""
    one, count = CASES[name]
    store = Storage(str(folder), S3Config(), "embed.output")
    plan = ConditionPlan(name, name, "", "", None, "", count, None, "bf16", 250)
    rng, payload = torch.Generator().manual_seed(0), 0
    shards.open_plan(store, plan)
    for ids in plan.spans(count):
        rows = [one(rng) for _ in ids]
        for row in rows:
            mask, tokens = row.get("mask"), row["tokens"]
            kept = tokens.numel() if mask is None else int(mask.sum()) * tokens.shape[2]
            payload += 2 * (kept + (0 if "pooled" not in row.tensors else row["pooled"].numel()))
        conditions.write(store, plan, ids, rows)
    manifest = shards.close(store, plan, count)
    size = sum(shard.bytes for shard in manifest.shards)
    return ConditionReader(store, manifest), size / payload


class SmallUNet(Network):
    """Blocks as Stable Diffusion's, a tenth as wide."""

    def __init__(self, width: int) -> None:
        unet = UNet2DConditionModel(
            sample_size=SHAPE[1],
            block_out_channels=(32, 64, 64, 64),
            cross_attention_dim=width,
            attention_head_dim=8,
            norm_num_groups=8,
        )
        super().__init__(unet, Flow(1.0), "flow_prediction", SHAPE)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Predict x0."""
        t = t.expand(len(x_t))
        output = self.backbone(x_t, 1000 * t, encoder_hidden_states=condition["tokens"]).sample
        return self.read(output, x_t, t)


class Training:
    """DMD steps of student and critic on the conditions of a set."""

    def __init__(self, conditioner: Stored, width: int) -> None:
        flags = ["--distill.regression.weight=0", "--distill.regression_steps=0"]
        flags += ["--distill.burn_in_steps=0"]
        config = load("bench", ["--config", str(ROOT / "configs/digits.yaml"), *flags])[0]
        self.student, self.teacher, self.critic = (SmallUNet(width) for _ in range(3))
        self.teacher.requires_grad_(False)
        weight, recipe = self.teacher.error_weight, Recipe.of(config.distill)
        self.method = DMD(Flow(1.0), weight, SHAPE, conditioner, recipe)

    def step(self, number: int) -> None:
        """One of both networks."""
        rng = torch.Generator().manual_seed(number)
        microbatch, plan = self.method.draw(BATCH, rng), self.method.plan(0)
        loss = self.method.student_loss(plan, self.student, self.teacher, self.critic, microbatch)
        loss.total.backward()
        assert loss.samples is not None
        self.method.critic_loss(self.critic, loss.samples, microbatch).total.backward()


def seconds(call: Callable[[], object]) -> float:
    """CPU time of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def read(conditioner: Stored, batches: int) -> None:
    """Batches as a step has them, of labels drawn with replacement."""
    for number in range(batches):
        rng = torch.Generator().manual_seed(number)
        conditioner(torch.randint(conditioner.classes or 0, (32,), generator=rng), 32)


def measure(name: str) -> dict[str, float]:
    """The figures of a case."""
    with tempfile.TemporaryDirectory() as folder:
        reader, size = make(Path(folder), name)
        conditioner = Stored([""] * CASES[name][1], reader)
        width = reader.rows([0])[0]["tokens"].shape[2]
        training, batches = Training(conditioner, width), 4
        read(conditioner, batches)
        training.step(0)
        found: dict[str, list[float]] = {"rows/s": [], "step rows/s": []}
        for number in range(ROUNDS):
            found["step rows/s"].append(BATCH / seconds(partial(training.step, number)))
            found["rows/s"].append(32 * batches / seconds(partial(read, conditioner, batches)))
        pairs = zip(found["rows/s"], found["step rows/s"], strict=True)
        ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    medians = {key: statistics.median(values) for key, values in found.items()}
    return {"bytes": size, "ratio": ratio, "GPU": medians["rows/s"] / GPU_ROWS, **medians}


def main() -> int:
    """Measure and print; 0 if the bars hold."""
    torch.set_num_threads(1)
    held = True
    for name in CASES:
        found = measure(name)
        held &= found["bytes"] <= BARS["bytes"] and found["ratio"] >= BARS["ratio"]
        print(
            f"{name}: bytes {found['bytes']:.4f} of the values; {found['rows/s']:.0f} rows/s read, "
            f"{found['ratio']:.0f} times the {found['step rows/s']:.1f} of a step here, "
            f"{found['GPU']:.1f} times {GPU_ROWS} of a GPU",
            flush=True,
        )
    print(f"bars: bytes {BARS['bytes']}, ratio {BARS['ratio']:g}: {'hold' if held else 'MISSED'}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
