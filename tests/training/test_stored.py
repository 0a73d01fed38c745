"""Training from stored conditions: the same bits, and no text encoder in memory."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from pipeline.config import Config
from pipeline.models.condition import Prompts, Stored
from pipeline.models.loading import load_teacher
from pipeline.runs.run import Run
from pipeline.training import build
from pipeline.training.memory import footprint
from tests.families.builders import BUILDERS
from tests.families.measures import size
from tests.fixtures.in_process import embed_prompts, make_pairs
from tests.fixtures.trained import trained


@pytest.fixture
def online(request, tiny_model, prompts, tmp_path) -> Config:
    """Of a run with pairs, guidance and a discriminator; its conditions are stored exactly too."""
    builder = BUILDERS[getattr(request, "param", "sdxl")]
    teacher = builder.teacher(tiny_model(builder), prompts)
    config = Config.model_validate(
        {
            "run": str(tmp_path / "online"),
            "data": {"name": None},
            "teacher": teacher.model_dump(),
            "pairs": {
                **{"output": str(tmp_path / "pairs"), "count": 6, "shard_size": 6},
                **{"solver": "euler", "steps": 3, "guidance": 3.0},
            },
            "embed": {"output": str(tmp_path / "conditions")},
            "distill": {
                **{"steps": 3, "regression_steps": 1, "burn_in_steps": 1, "batch_size": 4},
                "regression": {"batch_size": 4},
                "gan": {"real": "pairs"},
                **{"checkpoint_every": 3, "sample_every": 3, "log_every": 1},
            },
        }
    )
    make_pairs(config)
    embed_prompts(config.embed.output, teacher, "fp32")
    return config


def stored(config: Config) -> Config:
    tree = config.model_dump(mode="json")
    tree["run"] = f"{config.run}-stored"
    tree["distill"] |= {"conditions": "stored", "output": None}
    return Config.model_validate(tree)


@pytest.mark.parametrize("online", ["sdxl", "sana"], indirect=True)
def test_every_step_is_the_online_step_bit_for_bit(online, monkeypatch):
    """Of all phases and networks; and the pictures. The driver still saves the encoders."""
    offline = stored(online)
    one = trained(online)
    monkeypatch.setattr(Prompts, "row", lambda *_: pytest.fail("it was encoded"))
    other = trained(offline)
    assert one.keys() == other.keys() and len(one) > 50
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    pictures = [Path(c.distill.output) / "samples/step-0000003.png" for c in (online, offline)]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    with Image.open(pictures[1]) as picture:
        assert len(picture.convert("L").getcolors()) > 20
    Run(offline).finish()
    names = {each.name for each in (Path(offline.distill.output) / "student").iterdir()}
    assert {"text_encoder", "tokenizer"} <= names


def test_a_trainer_holds_no_parameter_of_an_encoder(online):
    """Of what it prepares, its modules alone are counted; the forecast says the same."""
    offline = stored(online)
    training = build.prepare(offline)
    teacher = training.grid.teacher
    assert isinstance(teacher.conditioner, Stored) and not teacher.frozen.text_encoders
    assert training.step.method.conditioner is teacher.conditioner
    of_encoders = size(*load_teacher(online.teacher).frozen.text_encoders)
    assert of_encoders > 0
    one, other = (footprint(c, Run(c).load_teacher()) for c in (online, offline))
    assert one.encoders - other.encoders == pytest.approx(of_encoders, rel=0.01)
    assert other.encoders == size(teacher.latents.vae)
    assert one.activations == other.activations
