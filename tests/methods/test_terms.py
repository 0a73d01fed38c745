"""A term says what it needs, costs and refuses, and one from outside trains like the others."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from pipeline.config import Config, DistillConfig
from pipeline.diffusion.pairs import PairBatch
from pipeline.diffusion.sampler import FewStepSampler
from pipeline.methods.microbatch import Microbatch, StepPlan
from pipeline.methods.recipe import Recipe
from pipeline.methods.samples import SamplesSeen
from pipeline.methods.terms import TERMS
from pipeline.methods.terms.term import Needs, NetworkCalls, Space, Term
from pipeline.models.condition import ClassLabels
from pipeline.models.critic import Critic
from pipeline.models.families.edm import new_unet
from pipeline.models.sampling import guide
from pipeline.runs import identity
from pipeline.stages.plan import training_calls
from pipeline.training import loop
from pipeline.utils.fields import Branch, Weight
from tests.fixtures.methods import first_class, new_method

SHAPE, ROWS, PAIRS = (1, 8, 8), 4, 2
GAN = {"real": "pairs"}
CASES = {
    "plain": {},
    "no regression": {"regression": {"weight": 0.0, "batch_size": PAIRS}},
    "sid": {"matching": {"loss": "sid"}},
    "sgmd": {"matching": {"loss": "sgmd"}},
    "gan": {"gan": GAN},
    "gan alone": {"gan": GAN, "matching": {"weight": 0.0}},
    "gan's critic alone": {"gan": {**GAN, "student_weight": 0.0}},
    "smooth": {"gan": {**GAN, "smoothness": 0.1}},
    "shared": {"gan": GAN, "draws": "shared"},
    "shared, smooth, js": {
        "gan": {**GAN, "smoothness": 0.1, "divergence": "js"},
        "draws": "shared",
    },
    "shared, js, no gan loss": {
        "gan": {**GAN, "student_weight": 0.0, "divergence": "js"},
        "draws": "shared",
    },
    "shared sid": {"gan": GAN, "draws": "shared", "matching": {"loss": "sid"}},
    "sida": {
        "gan": {**GAN, "heads": "mean"},
        "draws": "shared",
        "matching": {"loss": "sid-1"},
    },
    "uni-instruct": {
        "gan": {**GAN, "heads": "mean", "divergence": "jeffreys"},
        "draws": "shared",
        "matching": {"loss": "sid-1"},
    },
    "shared sgmd": {"gan": GAN, "draws": "shared", "matching": {"loss": "sgmd"}},
    "augmented": {"augmentation": {"weight": 1.0}},
    "augmented sid": {
        "augmentation": {"weight": 1.0},
        "matching": {"loss": "sid"},
    },
    "augmentation alone": {"augmentation": {"weight": 1.0}, "matching": {"weight": 0.0}},
    "steps": {"student": {"times": [80.0, 5.0, 0.5]}},
    "steps, diversity": {
        "student": {"times": [80.0, 5.0, 0.5]},
        "terms": {"diversity": {"anchor": 3, "steps": 7}},
    },
    "isg": {"terms": {"isg": {}}},
    "steps, isg, diversity": {
        "student": {"times": [80.0, 5.0, 0.5]},
        "terms": {"diversity": {"anchor": 3, "steps": 7}, "isg": {}},
    },
    "steps, gan, diversity": {
        "student": {"times": [80.0, 5.0]},
        "gan": GAN,
        "terms": {"diversity": {}},
    },
    "steps, gan": {"student": {"times": [80.0, 5.0, 0.5]}, "gan": GAN},
}


class Counted:
    """Rows that pass a module, forward and backward."""

    def __init__(self, module: nn.Module) -> None:
        self.forward = self.backward = 0
        module.register_forward_hook(self._count)

    def _count(self, _: nn.Module, __: object, output: Tensor) -> None:
        self.forward += len(output)
        if output.requires_grad:
            output.register_hook(self._count_back)

    def _count_back(self, gradient: Tensor) -> None:
        self.backward += len(gradient)


def unet(seed: int):
    config = Config().network.model_copy(
        update={"channels": (8, 16), "attention": (False, False), "norm_groups": 4}
    )
    return new_unet(config, SHAPE, 3, seed)


def counted_calls(plan: StepPlan, step_index: int, guidance: float, **settings) -> NetworkCalls:
    """Of a step with real networks."""
    times = settings.get("student", {}).get("times")
    steps = FewStepSampler(new_method(SHAPE).schedule, tuple(times)) if times else None
    method = new_method(SHAPE, 3, steps, **settings)
    student, teacher = unet(1), unet(2).requires_grad_(False)
    heads = None if method.recipe.needs.heads else ()
    critic = Critic(unet(3), heads, exits=len(times or (None,)))
    rng = torch.Generator().manual_seed(0)
    noise, images = torch.randn(2, PAIRS, *SHAPE, generator=rng)
    pairs = PairBatch(torch.arange(PAIRS), torch.tensor([0, 1]), noise, images)
    real = (torch.randn(ROWS, *SHAPE), torch.tensor([0, 1, 2, 0])) if heads is None else None
    microbatch = method.draw(ROWS, rng, pairs, real, step_index)
    backbone = critic.denoiser.backbone
    by_student, by_teacher, encoder, decoder = (
        Counted(each) for each in (student, teacher, backbone.conv_in, backbone.conv_out)
    )
    samples = None
    if plan.student:
        loss = method.student_loss(plan, student, guide(teacher, guidance), critic, microbatch)
        loss.total.backward()
        samples = loss.samples
    if plan.critic:
        samples = method.samples(student, microbatch) if samples is None else samples
        method.critic_loss(critic, samples, microbatch).total.backward()
    return NetworkCalls(
        teacher=by_teacher.forward,
        teacher_backward=by_teacher.backward,
        student=by_student.forward,
        student_backward=by_student.backward,
        critic=decoder.forward,
        critic_backward=decoder.backward,
        features=encoder.forward - decoder.forward,
        features_backward=encoder.backward - decoder.backward,
    )


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_the_declared_calls_are_those_of_a_real_step(settings, guidance, monkeypatch):
    settings = {
        "regression_steps": 1,
        "burn_in_steps": 1,
        "steps": 3,
        "lanes": 1,
        "batch_size": ROWS,
        "regression": {"batch_size": PAIRS},
        **settings,
    }
    recipe, guided = Recipe.of(DistillConfig(**settings)), 1 if guidance == 1 else 2
    if guidance != 1:
        monkeypatch.setattr(ClassLabels, "null", first_class)
    indices = range(len(settings.get("student", {}).get("times", (0,))))
    plans = [recipe.plan(step) for step in range(3)]
    assert [(plan.student, plan.critic) for plan in plans] == [
        (True, False),
        (False, True),
        (True,) * 2,
    ]
    total = NetworkCalls()
    for plan in plans:
        for index in indices:
            counted = counted_calls(plan, index, guidance, **settings)
            assert recipe.step_calls(plan, index, guided) == counted
            total += counted * (1 / len(indices))
    mine, theirs = recipe.network_calls(guided), total
    assert vars(mine) == pytest.approx(vars(theirs))


def test_the_price_knows_steps_guidance_and_the_gan():
    def price(guidance: float = 1.0, **distill) -> tuple[float, float]:
        tree = {"pairs": {"guidance": guidance}, "distill": distill}
        config = Config.model_validate(tree)
        return training_calls(config.distill, config.pairs.guidance).evaluations()

    plain = price()
    assert price(guidance=3.0) == (2 * plain[0], plain[1])
    for more in ({"gan": GAN}, {"student": {"times": [80, 10, 1]}, "gan": {}}):
        teacher, trained = price(**more)
        assert teacher == plain[0] and trained > 1.05 * plain[1]
    assert price(matching={"loss": "sid"})[0] == 3 * plain[0]
    shared, separate = (price(gan=GAN, draws=draws)[1] for draws in ("shared", "separate"))
    assert price(draws="shared")[1] < shared < separate


@pytest.mark.parametrize(
    ("settings", "needs"),
    [
        ({}, Needs(pairs=True)),
        ({"regression_steps": 0, "regression": {"weight": 0.0}}, Needs()),
        ({"regression_steps": 5, "regression": {"weight": 0.0}}, Needs(pairs=True)),
        ({"gan": {"real": "encoded"}}, Needs(pairs=True, real=True, heads=True)),
        (
            {"regression_steps": 0, "regression": {"weight": 0.0}, "gan": GAN},
            Needs(pairs=True, real=True, heads=True),
        ),
        (
            {"regression_steps": 0, "regression": {"weight": 0.0}, "gan": {"real": "encoded"}},
            Needs(real=True, heads=True),
        ),
    ],
)
def test_a_recipe_needs_what_its_terms_need(settings, needs):
    assert Recipe.of(DistillConfig(**settings)).needs == needs


class BrightnessConfig(Branch):
    """Pulls the mean of the student's samples to a value."""

    weight: Weight = 0.1
    value: float = 0.5


@dataclass(frozen=True)
class Brightness(Term[BrightnessConfig]):
    """(mean(x0 + noise) - value)^2, with noise of its own draws."""

    Settings: ClassVar[type[Branch]] = BrightnessConfig

    @property
    def weight(self) -> float:
        return self.settings.weight

    def problems(self):
        if abs(self.settings.value) > 1:
            yield f"distill.terms.{self.name}.value: {self.settings.value} is no brightness"

    def calls(self, plan: StepPlan, guided: int) -> NetworkCalls:
        return NetworkCalls(critic=self.distill.batch_size if self.name in plan.on_samples else 0)

    def draw(self, microbatch: Microbatch, rng: torch.Generator, space: Space) -> Microbatch:
        own = 0.01 * torch.randn(microbatch.noise.shape, generator=rng)
        return replace(microbatch, draws={**microbatch.draws, self.name: own})

    def sample_loss(self, seen: SamplesSeen) -> tuple[Tensor, dict[str, Tensor]]:
        noisy = seen.x0 + seen.microbatch.draws[self.name]
        loss = (noisy.mean() - self.settings.value).square()
        return loss, {self.name: loss.detach()}


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(TERMS, "brightness", Brightness)


def test_a_term_from_outside_changes_no_other_draw(toy):
    draw = {}
    for name, terms in (("with", {"brightness": {}}), ("without", {})):
        method = new_method(SHAPE, 3, gan=GAN, terms=terms)
        real = torch.zeros(ROWS, *SHAPE), torch.zeros(ROWS, dtype=torch.int64)
        draw[name] = method.draw(ROWS, torch.Generator().manual_seed(3), None, real)
    mine, theirs = draw["with"], draw["without"]
    assert torch.equal(mine.noise, theirs.noise) and torch.equal(mine.critic.eps, theirs.critic.eps)
    assert torch.equal(mine.real.shift, theirs.real.shift)
    assert mine.draws["brightness"].shape == (ROWS, *SHAPE) and not theirs.draws
    other = new_method(SHAPE, 3, terms={"brightness": {}}).draw(
        ROWS, torch.Generator().manual_seed(4), None
    )
    assert not torch.equal(other.draws["brightness"], mine.draws["brightness"])


def test_a_term_from_outside_trains_prices_and_refuses_as_the_others(toy, tiny_run):
    terms = {"brightness": {"weight": 0.3}}
    config = tiny_run("toy", terms=terms)
    assert Config.model_validate(config.model_dump(mode="json")) == config
    assert loop.train(config) == 10
    file = Path(config.distill.output) / "metrics.jsonl"
    logged = [json.loads(line) for line in file.read_text().splitlines()]
    assert logged[-1]["brightness"] >= 0 and logged[-1]["brightness_gradient"] > 0
    plain = tiny_run("plain")
    more, less = (training_calls(each.distill, 1.0).critic for each in (config, plain))
    more -= less
    assert more == 4 * config.distill.batch_size
    assert identity.definition(config)["distill"]["terms"] == {
        "brightness": {"weight": 0.3, "value": 0.5}
    }
    assert "terms" not in identity.definition(plain)["distill"]
    for wrong, setting in (
        ({"brightness": {"value": 7.0}}, "distill.terms.brightness.value"),
        ({"brightness": {"wight": 7.0}}, "wight"),
        ({"darkness": {}}, "plugins"),
        ({"gan": {}}, "distill.gan"),
    ):
        with pytest.raises(ValidationError, match=setting):
            Config.model_validate({"distill": {"terms": wrong}})


def test_plugins_are_imported_before_other_settings_are_read(tmp_path, monkeypatch):
    (tmp_path / "my_term.py").write_text(
        "from pipeline.methods.terms import TERMS\n"
        "from tests.methods.test_terms import Brightness\n"
        "TERMS['mine'] = Brightness\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(TERMS, "mine", Brightness)
    monkeypatch.delitem(TERMS, "mine")
    tree = {"plugins": ["my_term"], "distill": {"terms": {"mine": {"value": 0.2}}}}
    config = Config.model_validate(tree)
    assert config.distill.terms["mine"].value == 0.2
    assert Config.model_validate(config.model_dump(mode="json")) == config
    with pytest.raises(ValidationError, match="plugins: no_such_module"):
        Config.model_validate({"plugins": ["no_such_module"]})
