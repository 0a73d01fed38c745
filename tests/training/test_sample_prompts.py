"""Pictures of prompts of one's own: the student's, from fixed noise, beside a training as it is."""

import gc
import weakref
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.cli import main
from pipeline.cli.job import Job
from pipeline.config import Config
from pipeline.models import encoders
from pipeline.models.condition import Prompts
from pipeline.runs.run import Run
from pipeline.training import build, loop
from pipeline.utils.errors import UserError
from pipeline.utils.image_grid import read_grid
from tests.families.builders import BUILDERS
from tests.fixtures.in_process import embed_prompts
from tests.fixtures.trained import trained

ASKED = ("a red fox on a bicycle", "two owls")


@pytest.fixture
def config(tiny_model, prompts, tmp_path) -> Config:
    """Of a run without pairs, with a few steps of the student."""
    teacher = BUILDERS["sdxl"].teacher(tiny_model(BUILDERS["sdxl"]), prompts)
    return Config.model_validate(
        {
            "run": str(tmp_path / "run"),
            "data": {"name": None},
            "teacher": teacher.model_dump(),
            "embed": {"output": str(tmp_path / "conditions")},
            "distill": {
                **{"steps": 2, "regression_steps": 0, "burn_in_steps": 0, "batch_size": 4},
                "regression": {"weight": 0.0},
                **{"checkpoint_every": 2, "sample_every": 1, "log_every": 1},
                "sample_prompts": ASKED,
            },
        }
    )


def changed(config: Config, run: str, **distill: object) -> Config:
    tree = config.model_dump(mode="json")
    tree["distill"] |= {"output": f"{config.run}/{run}", **distill}
    return Config.model_validate(tree)


def picture(config: Config, step: int) -> dict[str, list[bytes]]:
    png = Path(config.distill.output, "samples", f"prompts-{step:07d}.png").read_bytes()
    sheet = read_grid(png)
    assert sheet is not None
    return {caption: [each.tobytes() for each in row] for caption, row in sheet.rows.items()}


def test_they_are_drawn_and_change_nothing_else(config):
    """Neither a bit of the training, nor which run it is."""
    plain = changed(config, "plain", sample_prompts=())
    one, other = trained(config), trained(plain)
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert Run(config).definition == Run(plain).definition
    first, last = picture(config, 1), picture(config, 2)
    assert tuple(first) == tuple(last) == ASKED
    assert len({each for row in last.values() for each in row}) == 8, "all differ"
    assert first != last, "the student has learnt"
    board = EventAccumulator(f"{config.distill.output}/tensorboard").Reload()
    assert [each.step for each in board.Images("samples/prompts")] == [1, 2]
    assert not list(Path(plain.distill.output).glob("samples/prompts-*"))

    more = changed(plain, "plain", sample_prompts=[ASKED[1]], steps=3)
    assert loop.train(more) == 3, "prompts may come later"


def test_where_conditions_are_stored_encoders_are_read_and_let_go(config, monkeypatch):
    """The images are the same, and do not depend on the prompts beside."""
    embed_prompts(config.embed.output, config.teacher, "fp32")
    seen: list[weakref.ref] = []

    def load(teacher):
        made = encoders_loaded(teacher)
        assert isinstance(made, Prompts)
        seen.append(weakref.ref(made))
        return made

    encoders_loaded = encoders.load_prompts
    monkeypatch.setattr(encoders, "load_prompts", load)
    stored = changed(config, "stored", conditions="stored", sample_prompts=ASKED[::-1])
    Run(stored).claim()
    training = build.prepare(stored)
    gc.collect()
    assert len(seen) == 1 and seen[0]() is None
    online = build.prepare(config)
    rows = [made.prompts.rows(made.ema) for made in (training, online)]
    assert all(torch.equal(rows[0][each], rows[1][each]) for each in ASKED)


@pytest.mark.parametrize("family", ["ddpm", "dit"])
def test_a_teacher_without_text_is_told_of_its_classes(family, config, tiny_model):
    folder = str(tiny_model(BUILDERS[family]))
    teacher = config.teacher.model_copy(update={"output": folder, "prompts": None})
    wrong = config.model_copy(update={"teacher": teacher})
    with pytest.raises(UserError, match=r"distill\.sample_prompts: .* takes no text; .* classes"):
        Run(wrong).claim()


def test_a_teacher_that_lacks_its_encoder_is_told_before_it_trains(config, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for part in Path(config.teacher.output).iterdir():
        if part.name != "text_encoder_2":
            (copy / part.name).symlink_to(part)
    teacher = config.teacher.model_copy(update={"output": str(copy)})
    with pytest.raises(UserError, match="no .*text_encoder_2"):
        encoders.check_sample_prompts(teacher)


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ('["a", "a"]', "must have each once, and 'a' stands twice"),
        ("a red fox", 'must be a list such as ["a red fox", ...]'),
        ('[""]', "must not be empty"),
    ],
)
def test_wrong_lists_are_one_line(typed, line, capsys):
    words = ["--config", "configs/sdxl.yaml", f"--distill.sample_prompts={typed}"]
    assert main(Job(print), words) == 2
    said = capsys.readouterr().err
    assert said.startswith("distill.sample_prompts") and line in said and said.count("\n") == 1


def test_a_formula_takes_none(capsys):
    words = ["--config", "configs/gaussian.yaml", '--distill.sample_prompts=["a"]']
    assert main(Job(print), words) == 2
    assert "a gaussian takes no text, it has classes" in capsys.readouterr().err
