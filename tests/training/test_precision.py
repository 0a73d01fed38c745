"""A step in bfloat16 teaches what one in float32 does."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from pipeline.cli import load
from pipeline.training.build import prepare
from tests.families.builders import BUILDERS

CONFIG = Path(__file__).parents[2] / "configs" / "sd15-dmd2.yaml"
BOTH = 9
"""A step in which student and critic learn."""


@pytest.mark.parametrize("seed", range(3))
def test_gradients_of_a_step_are_near(seed, tiny_model, prompts, tmp_path):
    """Relative norms: measured 0.022 to 0.026 of the student's, 0.006 to 0.011 of the critic's.

    The critic has left the teacher: of two equal networks' difference nothing is left but rounding.
    """

    def gradients(precision: str) -> list[Tensor]:
        flags = {
            "run": tmp_path,
            "seed": seed,
            "teacher.output": tiny_model(BUILDERS["sd1"]),
            "teacher.prompts": prompts,
            "distill.batch_size": 4,
            "distill.lanes": 1,
            "distill.workers.max": 1,
            "distill.precision": precision,
        }
        given = [f"--config={CONFIG}", *(f"--{name}={value}" for name, value in flags.items())]
        training, found = prepare(load(given)), []
        torch.manual_seed(seed)
        with torch.no_grad():
            for weight in training.step.critic.optimizer.param_groups[0]["params"]:
                weight.add_(0.3 * weight.std(correction=0) * torch.randn_like(weight))

        def note(optimizer: Optimizer, *_: object) -> None:
            learnt = optimizer.param_groups[0]["params"]
            found.append(torch.cat([each.grad.flatten() for each in learnt]))

        hook = register_optimizer_step_pre_hook(note)
        training.step(BOTH, training.microbatches(BOTH))
        hook.remove()
        return found

    for exact, half, bar in zip(gradients("fp32"), gradients("bf16"), (0.035, 0.02), strict=True):
        assert 0 < (half - exact).norm() / exact.norm() < bar
