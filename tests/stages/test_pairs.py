"""Laws of the pair maker."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn.modules.module import register_module_forward_hook

from pipeline.config import Config, PairsConfig, TeacherConfig
from pipeline.data import schema, shards
from pipeline.data.local import LocalStore
from pipeline.data.plans import PairPlan
from pipeline.data.reader import PairReader
from pipeline.diffusion import seeds
from pipeline.diffusion.condition import Condition
from pipeline.diffusion.noise import EDM, expand
from pipeline.models import compilation
from pipeline.models.condition import ClassLabels
from pipeline.models.denoiser import Denoiser
from pipeline.stages import pairs
from pipeline.stages.pairs import PairMaker, pair_plan
from pipeline.utils.errors import UserError
from tests.families.builders import BUILDERS
from tests.families.measures import guidable

PLAN = PairPlan(
    teacher="fake",
    seed=5,
    solver="heun",
    steps=6,
    guidance=1.0,
    shard_size=20,
    shape=(1, 4, 4),
    classes=4,
)


class Shrink(Denoiser):
    """Pulls every pixel toward a mean of its class: exact in any batch split."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule, self.shape = EDM(), (1, 4, 4)
        self.conditioner = ClassLabels(4, null_label=0)
        self.sizes: list[int] = []

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        self.sizes.append(len(x_t))
        mean = condition["labels"] / 4
        return mean[:, None, None, None] + (x_t - mean[:, None, None, None]) / (
            1 + 4 * expand(t, x_t) ** 2
        )


def planned(**values: object) -> PairPlan:
    gaussian = {"kind": "gaussian", "gaussian": {"classes": 5}}
    tree = {"data": {"name": None}, "teacher": gaussian, "pairs": values}
    config = Config.model_validate(tree)
    return pair_plan(config.teacher, config.pairs, config.seed)


@pytest.fixture
def teachers(monkeypatch: pytest.MonkeyPatch) -> list[Shrink]:
    """Every teacher the makers load."""
    loaded: list[Shrink] = []

    def load(_: TeacherConfig) -> Shrink:
        loaded.append(Shrink())
        return loaded[-1]

    monkeypatch.setattr(pairs, "load_teacher", load)
    monkeypatch.setattr(pairs, "teacher_fingerprint", lambda _: "fake")
    return loaded


def _maker(folder: Path, batch_size: int | None = 20, plan: PairPlan = PLAN) -> PairMaker:
    store = LocalStore(folder)
    shards.open_plan(store, plan)
    return PairMaker(TeacherConfig(), plan, store, PairsConfig(batch_size=batch_size))


def test_a_node_without_the_set_or_with_another_teacher_does_not_begin(teachers, tmp_path):
    lonely = PairMaker(TeacherConfig(), PLAN, LocalStore(tmp_path / "lonely"), PairsConfig())
    with pytest.raises(UserError, match="pairs.output: node .* does not see .*plan.json"):
        lonely.make(0)
    assert not (tmp_path / "lonely").exists()
    with pytest.raises(UserError, match="teacher.output: node .* has another teacher than the job"):
        _maker(tmp_path, plan=replace(PLAN, teacher="other")).make(0)
    assert teachers == []


def test_the_stored_noise_is_the_keyed_noise_and_the_teacher_saw_it_as_stored(
    teachers, tmp_path, monkeypatch
):
    solved: list[Tensor] = []
    plain = pairs.sample_teacher
    monkeypatch.setattr(
        pairs, "sample_teacher", lambda *args: (solved.append(args[1]), plain(*args))[1]
    )
    name = _maker(tmp_path).make(3)
    batch = schema.decode(
        LocalStore(tmp_path).open(name), 0, (1, 4, 4), PLAN.fingerprint(), "it"
    ).float()
    ids = torch.arange(60, 80)
    noise = schema.storable(seeds.noise(5, ids, (1, 4, 4), stream=seeds.PAIRS))
    assert torch.equal(batch.ids, ids) and torch.equal(batch.labels, ids % 4)
    assert torch.equal(batch.noise, noise) and torch.equal(torch.cat(solved).cpu(), noise)
    images = plain(Shrink(), noise, ids % 4, "heun", 6, 1.0)
    assert torch.equal(batch.images, schema.storable(images))


def test_the_bytes_do_not_depend_on_batch_order_or_process(teachers, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for index in (0, 1):
        _maker(one, 20).make(index)
    maker = _maker(two, 7)
    for index in (1, 0):
        maker.make(index)
    assert set(teachers[-1].sizes) == {7, 6}
    for name in LocalStore(one).list():
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_the_teacher_is_loaded_once_and_only_when_needed(teachers, tmp_path):
    maker = _maker(tmp_path)
    assert teachers == []
    maker.make(0)
    maker.make(1)
    assert len(teachers) == 1


def test_a_made_set_reads_back_whole(teachers, tmp_path):
    store = LocalStore(tmp_path)
    shards.open_plan(store, PLAN)
    names = [_maker(tmp_path).make(index) for index in shards.missing(store, PLAN, 60)]
    assert [shard.name for shard in shards.close(store, PLAN, 60).shards] == names
    assert PairReader(store, 0, 60).batch(0).ids.sort().values.tolist() == list(range(60))


def test_guidance_calls_the_teacher_with_and_without_labels(teachers, tmp_path):
    plain, guided = (
        _maker(tmp_path / str(scale), plan=replace(PLAN, guidance=scale)) for scale in (1.0, 3.0)
    )
    images = [
        schema.decode(
            maker._store.open(maker.make(0)), 0, (1, 4, 4), maker.plan.fingerprint(), "it"
        ).images.float()
        for maker in (plain, guided)
    ]
    # steps 6: Heun evaluates 11 times, twice as often with guidance
    assert [sum(teacher.sizes) for teacher in teachers] == [11 * 20, 22 * 20]
    high = (torch.arange(20) % 4) == 3
    assert images[1][high].mean() > images[0][high].mean() + 0.5


def test_guidance_may_end_before_the_image(teachers, tmp_path):
    """steps 6, of which 3 are guided: Heun's second evaluation of the third is behind the end."""
    _maker(tmp_path, plan=replace(PLAN, guidance=3.0, guidance_until=0.5)).make(0)
    assert sum(teachers[0].sizes) == (11 + 5) * 20


def test_guidance_without_labels_is_refused(teachers, tmp_path):
    with pytest.raises(UserError, match="pairs.guidance: 2.0"):
        _maker(tmp_path, plan=replace(PLAN, classes=None, guidance=2.0)).make(0)


def test_without_a_batch_size_it_is_halved_until_memory_holds_it(teachers, tmp_path, monkeypatch):
    plain, sizes = Shrink.forward, []

    def small(self, x_t, t, condition):
        sizes.append(len(x_t))
        if len(x_t) > 6:
            raise torch.OutOfMemoryError
        return plain(self, x_t, t, condition)

    monkeypatch.setattr(Shrink, "forward", small)
    with pytest.raises(torch.OutOfMemoryError):
        _maker(tmp_path, batch_size=10).make(0)
    sizes.clear()
    maker = _maker(tmp_path, batch_size=None)
    maker.make(0)
    maker.make(1)
    assert sizes[:3] == [20, 10, 5] and set(sizes[2:]) == {5}


def test_weights_are_one_per_class():
    assert planned(weights=[1, 0, 2, 0, 1]).weights == (1, 0, 2, 0, 1)
    with pytest.raises(UserError, match="pairs.weights: 2 values, but the teacher has 5 classes"):
        planned(weights=[1, 2])
    with pytest.raises(ValueError, match=r"pairs\.weights"):
        planned(weights=[0, 0])


def test_values_that_are_not_finite_are_not_stored(teachers, tmp_path, monkeypatch):
    monkeypatch.setattr(Shrink, "forward", lambda self, x_t, t, condition: x_t / 0)
    with pytest.raises(FloatingPointError, match="not finite for ids 20 to 39.*pairs.guidance"):
        _maker(tmp_path).make(1)
    assert LocalStore(tmp_path).list("pairs-") == {}


@pytest.mark.parametrize("name", ["ddim", "dit", "flux-dev", "wan"])
def test_pairs_in_bf16_are_near_those_in_fp32(tiny_model, prompts, tmp_path, name):
    """The network alone computes in it; solver, VAE and text encoders are in fp32 in both."""
    builder = BUILDERS[name]
    settings = builder.teacher(tiny_model(builder), prompts)
    guidance = 3.0 if guidable(pairs.load_teacher(settings)) else 1.0
    solved, computed = set(), set()

    def note(module: nn.Module, given: tuple, output: object) -> None:
        if isinstance(module, Denoiser):
            solved.update({given[0].dtype, given[1].dtype, output.dtype})
        elif isinstance(module, nn.Linear):
            computed.add(output.dtype)

    def made(folder: str, precision: str) -> tuple[bytes, Tensor, PairMaker]:
        how = {"count": 4, "shard_size": 4, "batch_size": 2, "precision": precision}
        chosen = PairsConfig(**how, steps=8, guidance=guidance)
        plan = pair_plan(settings, chosen, 0)
        store = LocalStore(tmp_path / folder)
        shards.open_plan(store, plan)
        maker = PairMaker(settings, plan, store, chosen)
        data = store.get(shard := maker.make(0))
        batch = schema.decode(store.open(shard), 0, plan.shape, plan.fingerprint(), "it").float()
        return data, batch.images, maker

    _, exact, _ = made("exact", "fp32")
    hook = register_module_forward_hook(note)
    data, images, maker = made("half", "bf16")
    hook.remove()
    assert solved == {torch.float32} and torch.bfloat16 in computed
    for part in maker.teacher.frozen_parts:
        assert {weight.dtype for weight in part.parameters()} == {torch.float32}
    rms = float((images - exact).norm() / exact.norm())
    print(f"{name}: pairs in bf16 differ from those in fp32 by {rms:.2g} of their RMS")
    assert 0 < rms < 0.03
    assert made("again", "bf16")[0] == data, "a shard made again has the same bytes"


def test_compiled_pairs_are_the_pairs(tiny_model, prompts, tmp_path, monkeypatch):
    """A graph for each number of images at once: here 3 and the remaining 1."""
    monkeypatch.setattr(compilation, "BACKEND", "eager")
    builder = BUILDERS["flux-dev"]
    settings = builder.teacher(tiny_model(builder), prompts)

    def made(folder: str, how: str) -> Tensor:
        options = {"count": 4, "shard_size": 4, "steps": 4, "batch_size": 3, "compile": how}
        chosen = PairsConfig(**options)
        plan, store = pair_plan(settings, chosen, 0), LocalStore(tmp_path / folder)
        shards.open_plan(store, plan)
        shard = PairMaker(settings, plan, store, chosen).make(0)
        return schema.decode(store.open(shard), 0, plan.shape, plan.fingerprint(), "it").images

    torch._dynamo.reset()
    counters.clear()
    plain = made("plain", "auto")
    assert not counters["stats"], "on a CPU"
    compiled = made("compiled", "blocks")
    assert counters["stats"]["unique_graphs"] and not counters["graph_break"]
    torch.testing.assert_close(compiled, plain, rtol=1e-3, atol=1e-3)
    torch._dynamo.reset()
