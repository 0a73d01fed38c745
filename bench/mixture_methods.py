"""The methods that bench/mixture.py compares, as settings, and one change of each at a time."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from mixture_law import LAW, Law
from torch import Tensor, nn

from pipeline.config import DistillConfig

UPDATES, BURN_IN, BATCH = 1500, 200, 256


@dataclass(frozen=True)
class Method:
    """A method as settings of `distill`.

    Attributes:
        critic_steps: To one of the student.
        settings: Branches of `distill`.
        regression: Updates by regression alone, before all else.
        real: Law of the GAN's real points.
        few: How many of these there are; 0: fresh ones in every step.
        apart: Whether the heads have layers of their own, that denoise nothing.
        told: Whether the critic is told which step made the points.
        longer: How many times the updates of the others.
    """

    critic_steps: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)
    regression: int = 0
    real: Law = LAW
    few: int = 0
    apart: bool = False
    told: bool = True
    longer: int = 1

    @property
    def distill(self) -> DistillConfig:
        """The settings of so many updates."""
        own, updates = dict(self.settings), self.longer * UPDATES
        burn_in = BURN_IN if self.regression < updates else 0
        student = {"lr": 1e-3, "every": self.critic_steps, **own.pop("student", {})}
        further = (updates - self.regression) * self.critic_steps
        settings = {
            "steps": self.regression + burn_in + further,
            "regression_steps": self.regression,
            "burn_in_steps": burn_in,
            "batch_size": BATCH,
            "lanes": 1,
            "student": student,
            "critic": {"lr": 2e-3, **own.pop("critic", {})},
            "regression": {"weight": 0.25 if self.regression else 0.0, "batch_size": BATCH},
        }
        return DistillConfig.model_validate(settings | own)

    @property
    def mark(self) -> str:
        """Short hash of all that defines its figures."""
        settings = self.distill.model_dump(mode="json", exclude_defaults=True)
        own = {"real": self.real.numbers, "few": self.few, "apart": self.apart, "told": self.told}
        known = json.dumps([settings, own], sort_keys=True)
        return hashlib.sha256(known.encode()).hexdigest()[:12]


class Rightward(nn.Module):
    """The reward "rightward": linear in the point, so that what it makes of a mixture is known."""

    def forward(self, points: Tensor, labels: object) -> Tensor:
        """The first coordinate of points (B, 2, 1, 1), (B,)."""
        return points[:, 0, 0, 0]


RIGHT = torch.tensor([1.0, 0.0])


def gan(student: float = 0.05, critic: float = 1.0, **more: Any) -> dict[str, Any]:
    """Settings of a GAN by its two weights."""
    return {"gan": {"real": "data", "student_weight": student, "critic_weight": critic, **more}}


def four(**student: Any) -> dict[str, Any]:
    """Settings of a student of four steps."""
    return {"student": {"times": [80.0, 6.0, 1.2, 0.3], **student}}


JS = {**gan(divergence="js"), "draws": "shared"}
SIDA = {**gan(heads="mean"), "draws": "shared", "matching": {"loss": "sid-1"}}
UNI = {**SIDA, **gan(heads="mean", divergence="jeffreys")}
DIVERSE = {**four(renoise=False), "terms": {"diversity": {}}}
METHODS = {
    "regression only": Method(regression=UPDATES),
    "DMD1": Method(regression=500),
    "DMD2 without GAN, k = 1": Method(),
    "DMD2 without GAN, k = 5": Method(5),
    "DMD2 without GAN, k = 10": Method(10),
    "DMD2 with GAN, k = 1": Method(1, gan()),
    "DMD2 with GAN, k = 5": Method(5, gan()),
    "f-distill, JS, k = 5": Method(5, JS),
    "SiD's loss, k = 5": Method(5, {"matching": {"loss": "sid"}}),
    "SiDA, k = 5": Method(5, SIDA),
    "Uni-Instruct, Jeffreys, k = 5": Method(5, UNI),
    "SGMD, k = 1": Method(1, {"matching": {"loss": "sgmd"}}),
    "IDA, k = 5": Method(5, {"critic": {"ida": 0.98}}),
    "4 steps, k = 5": Method(5, four()),
    "4 steps, levels step, k = 5": Method(5, four(levels="step")),
    "4 steps, levels above, k = 5": Method(5, four(levels="above")),
    "DP-DMD, 4 steps, k = 5": Method(5, DIVERSE),
    "ISG, 4 steps, k = 5": Method(5, {**four(), "terms": {"isg": {}}}),
    "reward, k = 5": Method(5, {"terms": {"reward": {"reward": "rightward", "weight": 0.1}}}),
}
ABLATIONS = {
    **{name: METHODS[name] for name in METHODS if name.startswith("DMD2")},
    "GAN, k = 10": Method(10, gan()),
    "GAN, k = 1, critic_weight 0.1": Method(1, gan(critic=0.1)),
    "GAN, k = 1, critic_weight 0.01": Method(1, gan(critic=0.01)),
    "GAN, k = 1, heads on layers of their own": Method(1, gan(), apart=True),
    "GAN, k = 1, student_weight 0": Method(1, gan(student=0.0)),
    "GAN, k = 1, student_weight 0, own layers": Method(1, gan(student=0.0), apart=True),
    "GAN, k = 1, student_weight 0.5": Method(1, gan(student=0.5)),
    "GAN, k = 1, noise levels 0 to 0.5": Method(1, gan(range=(0.0, 0.5))),
    "GAN, k = 1, noise levels 0.3 to 0.8": Method(1, gan(range=(0.3, 0.8))),
    "GAN, k = 5, real points moved": Method(5, gan(), real=LAW.moved(0.15)),
    "GAN, k = 5, moved, student_weight 0.5": Method(5, gan(student=0.5), real=LAW.moved(0.15)),
    "GAN, k = 5, real modes narrower": Method(5, gan(), real=LAW.narrowed(0.7)),
    "GAN, k = 5, other real masses": Method(5, gan(), real=LAW.weighed((0.2, 0.2, 0.2, 0.4))),
    "GAN, k = 5, 100 real points": Method(5, gan(), few=100),
    "4 steps, k = 5": METHODS["4 steps, k = 5"],
    "4 steps, k = 5, critic not told": Method(5, four(), told=False),
    "4 steps, k = 1": Method(1, four()),
    "4 steps, k = 1, critic not told": Method(1, four(), told=False),
    "4 steps, k = 1, four times as long": Method(1, four(), longer=4),
    "DMD2 without GAN, k = 1, four times as long": Method(1, longer=4),
}
"""Each a change of another row."""
BASE = "DMD2 without GAN, k = 5"
"""Where matching alone leads, beside which other real points pull."""
