"""The folder of a run as training and evaluation leave it, made by hand."""

import json
from pathlib import Path
from typing import Any

import torch

from pipeline.config import Config, settings_yaml
from pipeline.utils.image_grid import save_grid

BEGAN = 1_790_000_000.0
PROMPTS = ("two owls", "a red fox on a bicycle, " + "in a street of Lisbon at night, " * 12)


def line(step: int, **more: float) -> dict[str, float]:
    """Of metrics.jsonl, ten steps a minute."""
    split = {"seconds_data": 0.01, "seconds_student": 0.2, "seconds_critic": 0.1}
    return {
        "step": step,
        "time": BEGAN + 6 * step,
        "regression": 1 / (step + 1),
        "student_norm": 2.0,
        **split,
        "seconds_step": 0.4,
        "samples_per_second": 20.0,
        **more,
    }


EVENTS: list[dict[str, Any]] = [
    {"kind": "start", "time": BEGAN, "step": 0, "workers": 2, "machine": {"processor": "abacus"}},
    {"kind": "restart", "time": BEGAN + 45, "step": 4, "error": "a worker died"},
    {"kind": "start", "time": BEGAN + 60, "step": 4, "workers": 1, "reached": 6},
    {"kind": "end", "time": BEGAN + 120, "step": 10},
]


def record(value: float) -> dict[str, float]:
    """An estimate as an evaluation keeps it."""
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


FIGURES: dict[str, Any] = {
    "fd_teacher": 0.5,
    "fd_floor": 0.25,
    "n_teacher": 400,
    "accuracy": 0.98,
    "teacher_accuracy": 0.99,
    "speedup": 35.2,
    "nfe_teacher": 35,
    "fd_real": 0.7,
    "n_real": 1438,
    "verdict": ["No fault found.", "35 times as fast as its teacher."],
    "metrics": {
        "features": {"name": "a net", "library": "torch 2", "checksum": "0123456789abcdef" * 4},
        "comparisons": [
            {
                "reference": {"name": "teacher", "fingerprint": "f00"},
                "n": 400,
                "figures": {
                    "fid": {"library": "own", "student": record(0.5), "teacher": None},
                    "recall": {"student": record(0.75), "floor": record(0.875)},
                },
            }
        ],
        "scores": {
            "pick": {
                **{"library": "transformers 5", "checksum": "f00", "n": 300, "real": None},
                **{"student": record(0.25), "teacher": record(0.5), "other_prompts": record(0.125)},
            }
        },
    },
}


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def make_run(folder: Path, **settings: Any) -> Path:
    """A finished run of ten steps that was lost once, with everything; returns the folder."""
    distill = {"steps": 10, "regression_steps": 4, "burn_in_steps": 2, "lanes": 2}
    config = Config.model_validate({"run": str(folder), "distill": distill, **settings})
    tree, output = config.model_dump(mode="json"), folder / "distill"
    write(output / "config.yaml", settings_yaml.dump(tree))
    write(output / "run.json", {"seed": config.seed, "distill": tree["distill"]})
    metrics = [line(step, critic=0.5) for step in range(1, 11)]
    write(output / "metrics.jsonl", "".join(json.dumps(each) + "\n" for each in metrics))
    write(output / "events.jsonl", "".join(json.dumps(each) + "\n" for each in EVENTS))
    for step in (5, 10):
        score = {"fd_teacher": 5 / step, "n": 100, "floor": 0.25}
        write(output / "checkpoints" / f"{step:07d}-abcd.score", score)
        images = torch.full((12, 1, 8, 8), step / 10)
        rows = {"teacher": images, "student": -images}
        save_grid(rows, output / "samples" / f"step-{step:07d}.png")
        asked = {prompt: images[:4] for prompt in PROMPTS}
        save_grid(asked, output / "samples" / f"prompts-{step:07d}.png")
    write(output / "skipped.jsonl", json.dumps({"step": 7, "network": "critic"}) + "\n")
    write(output / "state.json", {"step": 10})
    write(folder / "evaluation.json", FIGURES)
    for name in ("evaluation", "neighbours", "failures"):
        rows = {"noise": torch.zeros(3, 1, 8, 8), "student": torch.ones(3, 1, 8, 8)}
        save_grid(rows, folder / f"{name}.png", columns=["0", "1", "2"])
    return folder
