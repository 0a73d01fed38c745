"""A reward beside matching: its gradient, what its model is given, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from pipeline.config import Config, DistillConfig
from pipeline.methods.dmd import DMD
from pipeline.methods.microbatch import Microbatch
from pipeline.methods.terms.reward import REWARDS
from pipeline.models.condition import ClassLabels, Prompts
from pipeline.models.families.gaussian import GaussianMixture
from pipeline.models.loading import load_teacher
from pipeline.models.vae import VAE
from pipeline.runs.identity import definition
from pipeline.training import loop
from pipeline.training.memory import footprint, kept_bytes
from pipeline.training.method import build_method
from pipeline.utils.errors import UserError
from tests.fixtures.methods import new_method
from tests.fixtures.tiny_models import save_tiny
from tests.fixtures.tiny_parts import vae

SHAPE, ROWS, WEIGHT, CPU = (2, 2, 2), 6, 0.7, torch.device("cpu")


class Near(nn.Module):
    """-|x - centre|^2, and what it was given."""

    def __init__(self, centre: float = 0.5) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.tensor(centre))
        self.given: list[object] = []

    def forward(self, images: Tensor, captions: object) -> Tensor:
        self.given.append(captions)
        return -(images - self.centre).square().flatten(1).sum(1)


class Doubled:
    """A decoder of latents: twice their value."""

    vae = nn.Identity()

    def decode(self, latents: Tensor) -> Tensor:
        return 2 * latents

    def at_meta(self) -> "Doubled":
        return self


@pytest.fixture(autouse=True)
def near(monkeypatch):
    monkeypatch.setitem(REWARDS, "near", Near)


def mixture(seed: int) -> GaussianMixture:
    rng = torch.Generator().manual_seed(seed)
    means = torch.randn(3, 8, generator=rng)
    return GaussianMixture(means, 0.1 + torch.rand(3, 8, generator=rng), None, SHAPE)


def rewarded(**found: object) -> tuple[DMD, Microbatch]:
    terms = {"reward": {"reward": "near", "weight": WEIGHT}}
    method = new_method(SHAPE, 3, terms=terms)
    *others, reward = method.terms
    ready = replace(reward, **{"model": Near(), "conditioner": ClassLabels(3), **found})
    method = replace(method, recipe=replace(method.recipe, terms=(*others, ready)))
    return method, method.draw(ROWS, torch.Generator().manual_seed(4))


@pytest.mark.parametrize("scale", [1, 2])
def test_the_gradient_is_matchings_less_the_rewards_own(scale):
    """On exact mixtures; d/dx -|s x - c|^2 = -2 s (s x - c), over the samples."""
    method, drawn = rewarded(latents=None if scale == 1 else Doubled())
    teacher, critic = mixture(1), mixture(2)
    x0 = torch.randn(ROWS, *SHAPE, generator=torch.Generator().manual_seed(5))
    found, logged = method._sample_gradient(method.plan(0), teacher, critic, x0, drawn)
    x_t, t = drawn.matching.add_noise(x0, method.schedule), drawn.matching.t
    real, fake = (each(x_t, t, drawn.condition) for each in (teacher, critic))
    size = (x0 - real).abs().mean((1, 2, 3), keepdim=True)
    matching = (fake - real) / size / x0.numel()
    pull = 2 * scale * (scale * x0 - 0.5) / ROWS
    torch.testing.assert_close(found, matching + WEIGHT * pull, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logged["reward"], Near()(scale * x0, None).mean())
    assert all(weight.grad is None for weight in method.terms[-1].model.parameters())


def test_the_model_is_told_each_images_class_or_prompt():
    model = Near()
    _, drawn = rewarded()
    x0 = torch.zeros(2, *SHAPE)
    texts = Prompts(["a cat", "a dog"], "", lambda texts, negative, device: None)
    for conditioner, labels, told in (
        (ClassLabels(3), torch.tensor([2, 0]), torch.tensor([2, 0])),
        (texts, torch.tensor([1, 0]), ["a dog", "a cat"]),
        (ClassLabels(None), None, None),
    ):
        method, _ = rewarded(model=model, conditioner=conditioner)
        method.terms[-1].rewards(x0, labels)
        given = model.given.pop()
        assert torch.equal(given, told) if torch.is_tensor(told) else given == told
    assert drawn.labels is not None and torch.equal(drawn.labels, drawn.condition["labels"])


def test_a_run_wins_reward_logs_it_and_is_another_run(tiny_run):
    def last(name: str, **distill: object) -> dict[str, float]:
        config = tiny_run(name, steps=30, warmup=0, student={"lr": 1e-3}, **distill)
        loop.train(config)
        lines = (Path(config.distill.output) / "metrics.jsonl").read_text().splitlines()
        return json.loads(lines[-1])

    terms = {"reward": {"reward": "near", "weight": 3.0}}
    plain, won = last("plain"), last("won", terms=terms)
    assert won["reward_gradient"] > 0 and "reward" not in plain
    assert abs(won["sample_mean"] - 0.5) < abs(plain["sample_mean"] - 0.5)
    found = definition(tiny_run("won", terms=terms))["distill"]["terms"]
    assert found == {"reward": {"reward": "near", "weight": 3.0}}


def test_a_student_of_prompts_is_rewarded_for_decoded_images(tmp_path, monkeypatch):
    """Of Stable Diffusion, in two steps, of which the first follows the teacher's ODE."""
    model = Near()
    monkeypatch.setitem(REWARDS, "near", lambda: model)
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    distill = {
        **{"steps": 8, "regression_steps": 0, "burn_in_steps": 0, "batch_size": 4},
        **{"regression": {"weight": 0.0, "batch_size": 4}, "log_every": 1},
        "student": {"times": [999.0, 499.0], "renoise": False},
        "terms": {"reward": {"reward": "near"}, "diversity": {"steps": 6, "anchor": 3}},
    }
    teacher = {"output": str(save_tiny(tmp_path / "sd")), "prompts": str(tmp_path / "prompts.txt")}
    tree = {"run": str(tmp_path / "run"), "data": {"name": None}, "teacher": teacher}
    config = Config.model_validate(tree | {"distill": distill, "pairs": {"guidance": 3.0}})
    loop.train(config)
    text = (Path(config.distill.output) / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert {tuple(each) for each in model.given} == {("a cat",), ("a dog",)}
    assert len(model.given) == 4 * sum("reward" in line for line in lines)
    for line in lines:  # a step teaches one of the student's two
        assert ("diversity_gradient" in line) != ("matching_gradient" in line)
        assert ("reward_gradient" in line) == ("matching_gradient" in line)
    assert all(line["student_norm"] > 0 for line in lines)


def test_memory_is_that_of_the_model_and_of_one_image(tiny_run):
    config = tiny_run(terms={"reward": {"reward": "near"}})
    teacher = load_teacher(config.teacher)
    teacher.shape, teacher.latents = (4, 8, 8), VAE(vae(4, 0.2))
    method = build_method(config.distill, teacher, CPU)
    x0 = torch.zeros(1, *teacher.shape, requires_grad=True)
    labels, term = torch.zeros(1, dtype=torch.int64), method.terms[-1]
    kept = kept_bytes(lambda: term.rewards(x0, labels), term.model, teacher.latents.vae)
    assert kept > 10_000
    counted = footprint(config, teacher).term_networks
    assert counted == pytest.approx(kept + 4, rel=0.01)
    assert teacher.latents.vae.device == CPU


class Deaf(Near):
    """Gives no gradient."""

    def forward(self, images: Tensor, captions: object) -> Tensor:
        return super().forward(images.detach(), captions).detach()


class One(Near):
    """One reward of all."""

    def forward(self, images: Tensor, captions: object) -> Tensor:
        return super().forward(images, captions).mean()


class Odd(Near):
    """Fails."""

    def forward(self, images: Tensor, captions: object) -> Tensor:
        raise ValueError("no such size")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Deaf, "reward: it gives the image no gradient.*can be differentiated"),
        (One, r"reward: it gives \(\) of one image; give \(1,\)"),
        (Odd, "reward: it fails: no such size; mend it"),
        (lambda: 1 / 0, "cannot make it: division by zero"),
    ],
)
def test_a_model_that_cannot_teach_is_refused_before_the_first_step(
    tiny_run, monkeypatch, model, message
):
    monkeypatch.setitem(REWARDS, "it", model)
    config = tiny_run(terms={"reward": {"reward": "it"}})
    with pytest.raises(UserError, match=message):
        build_method(config.distill, load_teacher(config.teacher), CPU)


def test_a_reward_that_nobody_registered_is_told_where_to_look(monkeypatch):
    tree = {"distill": {"terms": {"reward": {"reward": "mine"}}}}
    with pytest.raises(ValidationError, match="must be one of near"):
        Config.model_validate(tree)
    monkeypatch.delitem(REWARDS, "near")
    with pytest.raises(ValidationError, match="there is no mine; name the module .* in plugins"):
        Config.model_validate(tree)


def test_it_alone_can_teach_the_student():
    settings = {"matching": {"weight": 0.0}, "regression": {"weight": 0.0}}
    Config.model_validate(
        {"distill": {**settings, "terms": {"reward": {"reward": "near"}}, "regression_steps": 0}}
    )
    with pytest.raises(ValidationError, match="no loss teaches the student"):
        terms = {"reward": {"reward": "near", "weight": 0.0}}
        Config.model_validate({"distill": {**settings, "terms": terms, "regression_steps": 0}})
    assert DistillConfig(terms={"reward": {"reward": "near"}}).terms["reward"].weight == 0.3
