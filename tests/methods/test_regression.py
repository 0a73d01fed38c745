"""Distances of the regression: means over a lane, and what is kept of it changes no result."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor

from pipeline.config import Config, RegressionConfig
from pipeline.diffusion.losses import HUBER, huber_loss
from pipeline.diffusion.pairs import PairBatch
from pipeline.methods.terms.regression import Distance, huber, l2
from pipeline.models.loading import load_teacher
from pipeline.models.perceptual.decoder import load_decoder
from pipeline.models.perceptual.distance import Perceptual, distance_fingerprint, new_distance
from pipeline.models.perceptual.lpips import LPIPS
from pipeline.models.perceptual.lpips_weights import read_weights
from pipeline.models.vae import VAE
from pipeline.runs.identity import definition
from pipeline.runs.run import Run
from pipeline.training import loop
from pipeline.training.build import prepare
from pipeline.training.memory import footprint, kept_bytes
from pipeline.utils.errors import UserError
from tests.fixtures.lpips_weights import save_narrow
from tests.fixtures.tiny_parts import dc, tiny_decoder

CPU = torch.device("cpu")


def vae() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
        scaling_factor=0.18215,
    )


@pytest.fixture(params=["AutoencoderKL", "AutoencoderDC", "AutoencoderTiny"])
def perceptual(tmp_path, request) -> Perceptual:
    match request.param:
        case "AutoencoderKL":
            latents = VAE(vae())
        case "AutoencoderDC":
            torch.manual_seed(0)
            latents = VAE(dc(4, 0.41407))
        case _:
            latents = load_decoder(str(tiny_decoder(tmp_path / "decoder")))
    weights = read_weights(str(save_narrow(tmp_path / "narrow.safetensors")))
    return Perceptual(LPIPS(weights), latents, 2**20, recompute=False)


def batch(count: int, *shape: int, first: int = 0) -> tuple[Tensor, PairBatch]:
    """The student's x0, and pairs for them."""
    rng = torch.Generator().manual_seed(first)
    x0, noise, images = torch.randn(3, count, *shape, generator=rng)
    return x0, PairBatch(torch.arange(first, first + count), None, noise, images)


@pytest.mark.parametrize("name", ["l2", "huber", "images", "latents"])
def test_the_distance_of_a_lane_is_the_mean_of_its_rows(perceptual, name):
    images = replace(perceptual, latents=None)
    known: dict[str, Distance] = {"l2": l2, "huber": huber, "images": images, "latents": perceptual}
    distance = known[name]
    x0, pairs = batch(3, 1 if name == "images" else 4, 8, 8)
    rows = [distance(x0[i : i + 1], pairs.rows(slice(i, i + 1))) for i in range(3)]
    whole = distance(x0, pairs)
    assert whole.shape == () and whole > 0
    torch.testing.assert_close(whole, torch.stack(rows).mean())


def test_huber_is_the_root_of_large_errors_and_quadratic_in_small_ones():
    target = torch.zeros(2, 3, 4, 4)
    for error in (0.5, 3.0):
        torch.testing.assert_close(
            huber_loss(target + error, target).item(), error - HUBER, atol=1e-6, rtol=0
        )
    small = torch.full_like(target, HUBER / 100, dtype=torch.float64)
    assert huber_loss(small, target.double()).item() == pytest.approx(HUBER / 2e4, rel=1e-4)
    x0 = target.clone().requires_grad_()
    huber_loss(x0, target).backward()
    assert x0.grad is not None and not x0.grad.any()


def test_decoded_pairs_are_kept_as_far_as_there_is_room_and_change_nothing(perceptual, monkeypatch):
    decoded: list[int] = []
    decode = perceptual.latents.decode

    def counted(latents: Tensor) -> Tensor:
        decoded.append(len(latents))
        return decode(latents)

    monkeypatch.setattr(perceptual.latents, "decode", counted)
    _, pairs = batch(4, 4, 8, 8)
    fresh = perceptual.targets(pairs)
    assert sum(decoded) == 4
    turned = perceptual.targets(pairs.rows(torch.tensor([2, 0, 3, 1])))
    assert sum(decoded) == 4 and torch.equal(turned[torch.tensor([1, 3, 0, 2])], fresh)
    small = replace(perceptual, room=2 * fresh[0].numel() * 2 + 1, _kept={})
    assert torch.equal(small.targets(pairs), fresh) and sum(decoded) == 8
    assert torch.equal(small.targets(pairs), fresh) and sum(decoded) == 10
    none = replace(perceptual, room=0, _kept={})
    none.targets(pairs)
    assert torch.equal(none.targets(pairs), fresh) and sum(decoded) == 18


def test_gradients_go_through_the_decoder_and_recomputing_keeps_them(perceptual):
    found = []
    for recompute in (False, True):
        x0, pairs = batch(2, 4, 8, 8)
        x0.requires_grad_()
        loss = replace(perceptual, recompute=recompute)(x0, pairs)
        loss.backward()
        found.append((loss.detach(), x0.grad))
    assert found[0][1].any(dim=1).all()
    torch.testing.assert_close(found[1], found[0])
    assert all(weight.grad is None for weight in perceptual.latents.vae.parameters())


def test_under_autocast_it_is_the_same(perceptual):
    x0, pairs = batch(2, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = perceptual(x0, pairs)
    assert torch.equal(found, perceptual(x0, pairs))


def lpips_of(folder: Path, seed: int = 0, **more: object) -> dict[str, object]:
    file = save_narrow(folder / f"lpips-{seed}.safetensors", seed)
    return {"distance": "lpips", "lpips": str(file), "batch_size": 8, **more}


@pytest.mark.parametrize("distance", ["huber", "lpips"])
def test_a_run_learns_by_it_and_a_broken_one_goes_on_with_the_same_bits(
    tiny_run, tmp_path, distance
):
    chosen = lpips_of(tmp_path) if distance == "lpips" else {"distance": distance, "batch_size": 8}

    def config(name: str, steps: int) -> Config:
        return tiny_run(name, steps=steps, regression=chosen)

    for steps in (6, 8):
        broken = config("broken", steps)
        Run(broken).claim()
        assert loop.train(broken) == steps
    whole = config("whole", 8)
    Run(whole).claim()
    loop.train(whole)
    states = []
    for each in (broken, whole):
        Run(each).finish()
        states.append((Path(each.distill.output) / "state.json").read_text())
    assert states[0] == states[1]
    lines = (Path(whole.distill.output) / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["regression"] for line in lines if "regression" in json.loads(line)]
    assert losses[-1] > 0


def test_the_distance_and_its_weights_define_a_run_but_not_where_they_lie(tiny_run, tmp_path):
    plain = definition(tiny_run())
    assert not {"distance", "lpips", "decoder"} & (
        plain.keys() | plain["distill"]["regression"].keys()
    )
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    first = definition(tiny_run(regression=lpips_of(here, cache=1.0)))
    assert first == definition(tiny_run(regression=lpips_of(there)))
    assert first != definition(tiny_run(regression=lpips_of(there, seed=1)))
    huber = definition(tiny_run(regression={"distance": "huber", "batch_size": 8}))
    assert huber["distance"] == "huber" and huber != first != plain
    Run(tiny_run(regression=lpips_of(here))).claim()
    with pytest.raises(UserError, match="it has lpips '"):
        Run(tiny_run(regression=lpips_of(there, seed=1))).claim()


def test_a_run_without_pairs_reads_no_weights(tiny_run):
    config = tiny_run(
        regression_steps=0, regression={"distance": "lpips", "lpips": "/nowhere", "weight": 0.0}
    )
    assert prepare(config).step.method.terms[0].distance is l2
    assert "lpips" not in definition(config)


def test_missing_weights_are_named_before_the_run_begins(tiny_run):
    config = tiny_run(regression={"distance": "lpips", "lpips": "/nowhere.pth", "batch_size": 8})
    with pytest.raises(UserError, match="distill.regression.lpips: cannot read /nowhere.pth"):
        Run(config).claim()


def with_latents(config: Config):
    """The tiny_run teacher of images, as if these were latents."""
    teacher = load_teacher(config.teacher)
    teacher.shape, teacher.latents = (4, 8, 8), VAE(vae())
    return teacher


def test_a_tiny_decoder_takes_the_place_of_the_teachers(tiny_run, tmp_path):
    folder = tiny_decoder(tmp_path / "decoder")
    config = tiny_run(regression=lpips_of(tmp_path, decoder=str(folder)))
    distance = new_distance(config.distill.regression, with_latents(config), CPU)
    assert isinstance(distance, Perceptual) and distance.latents is not None
    x0, pairs = batch(2, 4, 8, 8)
    network = AutoencoderTiny.from_pretrained(folder)
    expected = torch.cat([network.decode(row).sample for row in pairs.images.split(1)])
    assert expected.shape == (2, 3, 16, 16)
    torch.testing.assert_close(distance.targets(pairs), expected.detach(), atol=1e-3, rtol=0)
    x0.requires_grad_()
    distance(x0, pairs).backward()
    assert x0.grad is not None and x0.grad.any()
    mark = distance_fingerprint(config.distill.regression)
    assert (
        mark["decoder"]
        != distance_fingerprint(
            RegressionConfig(**lpips_of(tmp_path, decoder=str(tiny_decoder(tmp_path / "other", 8))))
        )["decoder"]
    )


def test_what_does_not_fit_the_teacher_is_refused(tiny_run, tmp_path):
    decoder = str(tiny_decoder(tmp_path / "decoder", channels=8))
    config = tiny_run(regression=lpips_of(tmp_path, decoder=decoder))
    with pytest.raises(
        UserError, match="decoder: .* decodes latents, and the teacher makes images"
    ):
        new_distance(config.distill.regression, load_teacher(config.teacher), CPU)
    with pytest.raises(UserError, match="of 8 channels, and the teacher's have 4"):
        new_distance(config.distill.regression, with_latents(config), CPU)
    images = tiny_run(regression=lpips_of(tmp_path))
    teacher = load_teacher(images.teacher)
    teacher.shape = (2, 4, 4)
    with pytest.raises(UserError, match="1 or 3 channels, and the teacher's have 2: use l2"):
        new_distance(images.distill.regression, teacher, CPU)
    for place, message in ((tmp_path, "cannot load"), (tmp_path / "none", "cannot load")):
        config = tiny_run(regression=lpips_of(tmp_path, decoder=str(place)))
        with pytest.raises(UserError, match=f"distill.regression.decoder: {message}"):
            new_distance(config.distill.regression, with_latents(config), CPU)
        with pytest.raises(UserError, match="distill.regression.decoder: .*No such file"):
            distance_fingerprint(config.distill.regression)


@pytest.mark.parametrize("recompute", [False, True])
def test_the_footprint_counts_networks_and_activations(tiny_run, tmp_path, recompute):
    config = tiny_run(recompute=recompute, regression=lpips_of(tmp_path))
    teacher = with_latents(config)
    counted, plain = footprint(config, teacher), footprint(tiny_run(recompute=recompute), teacher)
    assert plain.term_networks == 0
    assert counted.total == plain.total + counted.term_networks
    distance = new_distance(config.distill.regression, teacher, CPU, recompute)
    assert isinstance(distance, Perceptual) and distance.latents is not None
    x0, pairs = batch(1 if recompute else 4, 4, 8, 8)
    x0.requires_grad_()
    networks = (distance.lpips, distance.latents.vae)
    kept = kept_bytes(lambda: distance.distances(x0, distance.targets(pairs)), *networks)
    own = sum(size(each.parameters()) + size(each.buffers()) for each in networks)
    assert counted.term_networks == pytest.approx(own + kept, rel=0.01)
    assert kept > 50 * own


def size(tensors) -> int:
    return sum(value.numel() * value.element_size() for value in tensors)
