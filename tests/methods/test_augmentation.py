"""What guidance adds as a loss of its own, on a mixture whose scores and classes are exact."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from pipeline.config import Config
from pipeline.diffusion.sampler import FewStepSampler
from pipeline.methods.dmd import DMD
from pipeline.methods.microbatch import Microbatch, StepPlan
from pipeline.models.families.gaussian import GaussianMixture
from pipeline.models.sampling import guide
from pipeline.runs import identity
from pipeline.training import loop
from pipeline.training.method import build_method
from pipeline.utils.errors import UserError
from tests.fixtures.double import double
from tests.fixtures.methods import new_method

SHAPE, CLASSES, ROWS, GUIDANCE = (1, 2, 2), 3, 6, 3.5
ON = {"augmentation": {"weight": 1.0}}
TIMES = (80.0, 5.0, 0.5)


class Free(nn.Module):
    """A student whose images are its weights: their gradient is that of the losses."""

    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(2)
        self.images = nn.Parameter(torch.randn(ROWS, *SHAPE, dtype=torch.float64, generator=rng))

    def forward(self, *_: object) -> Tensor:
        return 1.0 * self.images


def mixture(seed: int) -> GaussianMixture:
    rng = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(CLASSES, 4, 4, dtype=torch.float64, generator=rng))[0]
    variances = 0.05 + torch.rand(CLASSES, 4, dtype=torch.float64, generator=rng)
    means = torch.randn(CLASSES, 4, dtype=torch.float64, generator=rng)
    return GaussianMixture(means, variances, basis, SHAPE)


TEACHER, CRITIC = mixture(0), mixture(1)


def drawn(method: DMD, step_index: int = 0) -> Microbatch:
    rng = torch.Generator().manual_seed(0)
    microbatch = method.draw(ROWS, rng, step_index=step_index)
    own = {name: double(each) for name, each in microbatch.draws.items()}
    microbatch = double(microbatch)
    microbatch.draws.update(own)
    return microbatch


def gradient(method: DMD, term: str, student: Free, microbatch: Microbatch) -> Tensor:
    """Of the sum over all pixels, (B, C, H, W)."""
    student.images.grad = None
    plan, teacher = StepPlan(on_samples={term: 1.0}), guide(TEACHER, GUIDANCE)
    method.student_loss(plan, student, teacher, CRITIC, microbatch).total.backward()
    return student.images.grad * student.images.numel()


def mean_distance(x0: Tensor, other: Tensor) -> Tensor:
    return (x0 - other).abs().mean((1, 2, 3), keepdim=True)


def test_its_gradient_is_that_of_the_log_probability_of_the_class():
    """cond - uncond = sigma^2 / alpha times the gradient of log p(class | x_t)."""
    student, method = Free(), new_method(SHAPE, CLASSES, **ON)
    microbatch = drawn(method)
    noise_sample, labels = microbatch.draws["augmentation"], microbatch.condition["labels"]
    x_t = (student.images + noise_sample.t[:, None, None, None] * noise_sample.eps).detach()
    x_t, sigma = x_t.flatten(1).requires_grad_(), noise_sample.t[:, None, None, None]
    own = TEACHER.basis @ TEACHER.variances.diag_embed() @ TEACHER.basis.mT
    total = own + sigma**2 * torch.eye(4)
    each = MultivariateNormal(TEACHER.means, total).log_prob(x_t[:, None])
    of_class = each.gather(1, labels[:, None])[:, 0]
    (towards,) = torch.autograd.grad((of_class - each.logsumexp(1)).sum(), x_t, retain_graph=True)
    (score,) = torch.autograd.grad(of_class.sum(), x_t)
    added = (GUIDANCE - 1) * sigma**2 * towards.view(ROWS, *SHAPE)
    conditional = (x_t + sigma.view(ROWS, 1) ** 2 * score).view(ROWS, *SHAPE).detach()
    expected = -added / mean_distance(student.images.detach(), conditional + added)
    found = gradient(method, "augmentation", student, microbatch)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)


def test_at_one_noise_both_parts_are_the_guided_matching():
    student = Free()
    apart, whole = new_method(SHAPE, CLASSES, **ON), new_method(SHAPE, CLASSES)
    microbatch = drawn(apart)
    microbatch.draws["augmentation"] = at = microbatch.matching
    x_t = at.add_noise(student.images.detach(), apart.schedule)
    guided, conditional = guide(TEACHER, GUIDANCE).both(x_t, at.t, microbatch.condition)
    sizes = [mean_distance(student.images.detach(), each) for each in (guided, conditional)]
    added = gradient(apart, "augmentation", student, microbatch) * sizes[0]
    matching = gradient(apart, "matching", student, microbatch) * sizes[1]
    expected = gradient(whole, "matching", student, microbatch) * sizes[0]
    assert added.norm() > 0.1 * expected.norm() and matching.norm() > 0.1 * expected.norm()
    torch.testing.assert_close(added + matching, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("index", range(len(TIMES)))
def test_its_noise_is_its_own_and_after_the_first_step_none_above_the_students(index):
    student = {"times": TIMES}
    with_it, without = (
        new_method(SHAPE, CLASSES, FewStepSampler(new_method(SHAPE).schedule, TIMES), **settings)
        for settings in ({**ON, "student": student}, {"student": student})
    )
    ours, theirs = (
        each.draw(2000, torch.Generator().manual_seed(1), step_index=index)
        for each in (with_it, without)
    )
    own = ours.draws["augmentation"]
    assert not theirs.draws
    for name in ("matching", "critic"):
        assert torch.equal(getattr(ours, name).eps, getattr(theirs, name).eps)
        assert torch.equal(getattr(ours, name).t, getattr(theirs, name).t)
        assert not torch.equal(getattr(ours, name).eps, own.eps)
    schedule = with_it.schedule
    ends = schedule.time_from_fraction(torch.tensor([0.02, 0.98], dtype=torch.float64))
    highest = float(ends[1]) if index == 0 else TIMES[index]
    assert 0.95 * highest < own.t.max() < 1.0001 * highest
    assert 0.999 * ends[0] < own.t.min() < 2 * ends[0]


def test_a_first_step_from_any_time_has_the_whole_range_for_its_input_is_noise():
    augmentation = {"weight": 1.0, "range": (0.5, 0.9)}
    method = new_method(SHAPE, augmentation=augmentation, student={"times": [0.5]})
    own = method.draw(2000, torch.Generator().manual_seed(1)).draws["augmentation"]
    low, high = method.schedule.time_from_fraction(torch.tensor([0.5, 0.9])).tolist()
    assert low <= own.t.min() < 1.05 * low and 0.95 * high < own.t.max() <= high


def test_a_range_above_a_later_steps_input_is_refused():
    settings = {"augmentation": {"weight": 1.0, "range": (0.5, 0.98)}}
    for times, refused in (((80.0, 20.0), False), ((80.0, 0.1), True)):
        distill = new_method(SHAPE, student={"times": times}, **settings).recipe.distill
        with pytest.raises(UserError, match="augmentation.range") if refused else nullcontext():
            build_method(distill, TEACHER, torch.device("cpu"))


def test_a_run_takes_it_and_runs_without_it_are_what_they_were(tiny_run):
    plain = tiny_run(regression_steps=0, regression={"weight": 0.0})
    tree = plain.model_dump(mode="json")
    tree["pairs"]["guidance"] = GUIDANCE
    tree["distill"]["augmentation"]["weight"] = 0.5
    config = Config.model_validate(tree)
    assert loop.train(config) == 10
    file = Path(config.distill.output) / "metrics.jsonl"
    last = json.loads(file.read_text().splitlines()[-1])
    assert last["augmentation_gradient"] > 0 and last["matching_gradient"] > 0
    assert identity.definition(config)["distill"]["augmentation"]["weight"] == 0.5
    before = identity.definition(plain)["distill"]
    assert "augmentation" not in before and "ida" not in before["critic"]
