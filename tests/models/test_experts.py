"""Two experts are one network: whose rows are whose, here and on workers that share weights."""

import json
from pathlib import Path

import pytest
import torch

from pipeline.config import Config, PairsConfig, StudentConfig
from pipeline.models.loading import load_teacher
from pipeline.models.sampling import sample_teacher
from pipeline.models.students import new_student
from tests.families.builder import NEGATIVE
from tests.families.builders.wan import BUILDERS
from tests.families.measures import NETWORK, close, error, refused
from tests.fixtures.metrics import lines
from tests.fixtures.workers import train

BUILDER = BUILDERS["wan-experts"]
BOUNDARY = 0.7


@pytest.fixture
def config(tiny_model, prompts, tmp_path):
    return BUILDER.teacher(tiny_model(BUILDER), prompts)


@torch.no_grad()
@pytest.mark.parametrize("times", [(0.9, 0.2, 0.8), (0.2, 0.9, 0.3), (0.9, 0.8, 0.71), (0.1,) * 3])
def test_each_row_is_what_its_own_expert_makes_of_it(config, times):
    experts = load_teacher(config).experts
    rng = torch.Generator().manual_seed(0)
    x_t = torch.randn(3, *BUILDER.noise()[0].shape, generator=rng)
    given = {"hidden_states": x_t, "encoder_hidden_states": torch.randn(3, 512, 12, generator=rng)}
    t = 1000 * torch.tensor(times)
    (together,) = experts(timestep=t, **given)
    for row, time in enumerate(times):
        expert = experts.transformer if time >= BOUNDARY else experts.transformer_2
        one = {name: value[row : row + 1] for name, value in given.items()}
        alone = expert(timestep=t[row : row + 1], **one).sample
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)


def test_the_boundary_itself_is_of_the_noisier_expert_and_none_without_rows_is_called(config):
    experts = load_teacher(config).experts
    first, second = experts.transformer, experts.transformer_2
    called = [
        [(expert is first, rows.tolist()) for expert, rows in experts.shares(torch.tensor(times))]
        for times in ([700.0, 699.9, 701.0], [700.0], [699.9])
    ]
    assert called == [[(True, [0, 2]), (False, [1])], [(True, [0])], [(False, [0])]]
    assert first is not second


def test_experts_of_two_models_are_refused(config, tmp_path, monkeypatch):
    folder = Path(config.output)
    copy = tmp_path / "copy"
    copy.mkdir()
    for part in folder.iterdir():
        (copy / part.name).symlink_to(part)
    changed = config.model_copy(update={"output": str(copy)})
    (copy / "transformer_2").unlink()
    BUILDERS["wan"].make().transformer.from_config(
        json.loads((folder / "transformer" / "config.json").read_text()) | {"ffn_dim": 32}
    ).save_pretrained(copy / "transformer_2")
    assert "its transformer_2 has ffn_dim 32, not 16" in refused(changed)
    index = json.loads((folder / "model_index.json").read_text())
    (copy / "model_index.json").unlink()
    for broken, told in (
        ({"boundary_ratio": "high"}, "boundary_ratio"),
        ({"transformer_2": [None, None]}, "no transformer_2"),
    ):
        (copy / "model_index.json").write_text(json.dumps(index | broken))
        assert told in refused(changed)


@pytest.mark.parametrize(("steps", "size"), [(4, BUILDER.sizes[0]), (20, BUILDER.sizes[1])])
def test_each_expert_has_its_scale_of_guidance_as_in_the_pipeline(config, prompts, steps, size):
    wide = BUILDER.sized(*size)
    teacher, pipe = (
        load_teacher(wide.teacher(Path(config.output), prompts)),
        wide.open(config.output),
    )
    noise, labels, ends = wide.noise(), wide.labels_of(teacher), []
    for second in (3.0, 1.0):
        guided = PairsConfig(guidance=4.0, guidance_2=second).guided
        ends.append(sample_teacher(teacher, noise, labels, "euler", steps, guided))
        told = {"guidance_scale_2": second, "negative_prompt": [NEGATIVE] * 2}
        close(ends[-1], wide.called(pipe, steps, 4.0, "latent", **told), 1e-4)
    assert error(*ends) > 1e-3


def test_a_stock_pipeline_is_not_called_where_rounding_takes_a_time_to_the_other_expert(config):
    teacher = load_teacher(config)

    def student(*times: float):
        return new_student(teacher, NETWORK, 0, StudentConfig(times=times))

    assert student(1.0, 0.75).call_settings and student(1.0, 0.65).call_settings
    at_boundary = student(1.0, BOUNDARY)
    scheduler = at_boundary.pipeline().scheduler
    scheduler.set_timesteps(2)
    same = bool(scheduler.timesteps[1] >= 1000 * BOUNDARY)
    assert bool(at_boundary.call_settings) == same


@pytest.mark.cluster
def test_workers_that_share_weights_take_the_steps_of_those_with_copies(config, tmp_path):
    """Rows of one worker are often of one expert alone; the third lane of the second is idle."""
    found = {}
    for name in ("copied", "sharded"):
        run = Config.model_validate(
            {
                "run": str(tmp_path / name),
                "data": {"name": None},
                "network": NETWORK.model_dump(mode="json"),
                "teacher": config.model_dump(mode="json"),
                "distill": {
                    **{"steps": 6, "regression_steps": 0, "burn_in_steps": 1},
                    **{"batch_size": 3, "lanes": 3, "log_every": 1, "sample_every": 6},
                    "regression": {"weight": 0.0, "batch_size": 3},
                    "student": {"times": [1.0, 0.5]},
                    "sharded": name == "sharded",
                },
            }
        )
        train(run, 2)
        found[name] = lines(run)
    for ours, theirs in zip(found["sharded"], found["copied"], strict=True):
        for key in ours:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-4, abs=1e-6), key
