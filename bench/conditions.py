#!/usr/bin/env python3
"""What stored conditions cost: bytes beyond their values, and reading beside training.

    python bench/conditions.py [--json FILE]

For the conditions of three models, their real shapes and random values: bytes of the files beyond
the raw values; rows that `Stored` gives in a second of CPU time, drawn at random from the page
cache by one thread, the median of 5; and that over the rows that training takes in a second on one
H100. Of Stable Diffusion 1.5 these were measured, 42.4 (docs/training.md). Other networks take as
many as need the same operations: those of a forward pass are counted in their real shapes, on the
meta device. "full" is by three times that: networks that come to 50% of what the card can do, where
that run came to about 17%.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel, SanaTransformer2DModel, UNet2DConditionModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.config import S3Config  # noqa: E402
from pipeline.data import conditions, shards  # noqa: E402
from pipeline.data.conditions import ConditionReader  # noqa: E402
from pipeline.data.plans import ConditionPlan  # noqa: E402
from pipeline.data.storage import Storage  # noqa: E402
from pipeline.diffusion.condition import Condition  # noqa: E402
from pipeline.models.condition import Stored  # noqa: E402

MEASURED, FULL = 42.4, 3.0
"""Images a second of Stable Diffusion 1.5, and how much faster a card at 50% is."""
ROUNDS, BATCHES, MICROBATCH = 5, 4, 32
BARS = {"bytes": 1.01, "ratio": 20.0}


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


def sd15() -> nn.Module:
    """Images of 512 pixels."""
    return UNet2DConditionModel(sample_size=64, cross_attention_dim=768)


def call_sd15(network: nn.Module) -> None:
    """One image."""
    network(torch.empty(1, 4, 64, 64), torch.ones(1), torch.empty(1, 77, 768))


def call_sana(network: nn.Module) -> None:
    """One image of 1024 pixels; as many tokens as the pipeline gives."""
    network(torch.empty(1, 32, 32, 32), torch.empty(1, 300, 2304), torch.ones(1))


def call_flux(network: nn.Module) -> None:
    """One image of 1024 pixels: 64 x 64 patches."""
    network(
        hidden_states=torch.empty(1, 4096, 64),
        encoder_hidden_states=torch.empty(1, 512, 4096),
        pooled_projections=torch.empty(1, 768),
        timestep=torch.ones(1),
        guidance=torch.ones(1),
        img_ids=torch.empty(4096, 3),
        txt_ids=torch.empty(512, 3),
    )


@dataclass(frozen=True)
class Case:
    """A model.

    Attributes:
        condition: One of its conditions, of random values.
        count: Prompts in the set.
        network: In its released shape.
        call: One forward pass.
    """

    condition: Callable[[torch.Generator], Condition]
    count: int
    network: Callable[[], nn.Module]
    call: Callable[[nn.Module], None]

    def flops(self) -> int:
        """Of the forward pass."""
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
            self.call(self.network())
        return int(counter.get_total_flops())


CASES = {
    "sd15": Case(clip, 1000, sd15, call_sd15),
    "sana": Case(gemma, 400, SanaTransformer2DModel, call_sana),  # 1.6B is the default
    "flux": Case(t5, 50, lambda: FluxTransformer2DModel(guidance_embeds=True), call_flux),
}


@dataclass(frozen=True)
class Figures:
    """Of a case.

    Attributes:
        bytes: Of the files, by those of their values.
        rows: Read in a second.
        teraflops: Of a forward pass.
        consumed: Rows that training takes in a second.
        ratio, full: Rows read over those consumed, and over those of a card at 50%.
        milliseconds: To read a microbatch.
    """

    bytes: float
    rows: float
    teraflops: float
    consumed: float
    ratio: float
    full: float
    milliseconds: float

    @property
    def held(self) -> bool:
        """Whether the bars hold."""
        return self.bytes <= BARS["bytes"] and self.ratio >= BARS["ratio"]


def make(folder: Path, name: str) -> tuple[ConditionReader, float]:
    """A closed set in bf16, and the bytes of its files by those of its values."""
    case = CASES[name]
    store = Storage(str(folder), S3Config(), "embed.output")
    plan = ConditionPlan(name, name, "", "", None, "", case.count, None, "bf16", 250)
    rng, payload = torch.Generator().manual_seed(0), 0
    shards.open_plan(store, plan)
    for ids in plan.spans(case.count):
        rows = [case.condition(rng) for _ in ids]
        for row in rows:
            mask, tokens = row.get("mask"), row["tokens"]
            kept = tokens.numel() if mask is None else int(mask.sum()) * tokens.shape[2]
            payload += 2 * (kept + (0 if "pooled" not in row.tensors else row["pooled"].numel()))
        conditions.write(store, plan, ids, rows)
    manifest = shards.close(store, plan, case.count)
    size = sum(shard.bytes for shard in manifest.shards)
    return ConditionReader(store, manifest), size / payload


def read(conditioner: Stored) -> float:
    """CPU time of a microbatch as a step has it, of labels drawn with replacement."""
    start = time.process_time()
    for number in range(BATCHES):
        rng = torch.Generator().manual_seed(number)
        labels = torch.randint(conditioner.classes or 0, (MICROBATCH,), generator=rng)
        conditioner(labels, MICROBATCH)
    return (time.process_time() - start) / BATCHES


def measure(name: str) -> Figures:
    """The figures of a case."""
    with tempfile.TemporaryDirectory() as folder:
        reader, size = make(Path(folder), name)
        conditioner = Stored([""] * CASES[name].count, reader)
        read(conditioner)
        seconds = statistics.median(read(conditioner) for _ in range(ROUNDS))
    rows, flops = MICROBATCH / seconds, CASES[name].flops()
    consumed = MEASURED * CASES["sd15"].flops() / flops
    ratio = rows / consumed
    return Figures(size, rows, flops / 1e12, consumed, ratio, ratio / FULL, 1000 * seconds)


def main() -> int:
    """Measure and print; 0 if the bars hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where the figures go too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for name in CASES:
        each = found[name] = measure(name)
        print(
            f"{name}: bytes {each.bytes:.4f} of the values; {each.rows:.0f} rows/s read "
            f"({each.milliseconds:.0f} ms for {MICROBATCH}); {each.teraflops:.2f} TFLOP a pass, "
            f"{each.consumed:.2f} rows/s consumed: {each.ratio:.1f} times, {each.full:.1f} full",
            flush=True,
        )
    held = all(each.held for each in found.values())
    print(f"bars: bytes {BARS['bytes']}, ratio {BARS['ratio']:g}: {'hold' if held else 'MISSED'}")
    if arguments.json:
        content = {name: asdict(each) for name, each in found.items()}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
