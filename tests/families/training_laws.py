"""A family can be learnt from: copies, critic, a run in the jobs, and what it takes."""

import copy
import json
from collections.abc import Mapping, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.config import Config, DistillConfig
from pipeline.data.fetch import fetch_inputs
from pipeline.diffusion.pairs import PairBatch
from pipeline.models.critic import Critic
from pipeline.models.denoiser import Inputs
from pipeline.models.experts import Experts
from pipeline.models.families.gaussian import GaussianMixture
from pipeline.models.half import compute_in_half
from pipeline.models.latent_transformer import LatentTransformer
from pipeline.models.loading import load_teacher
from pipeline.models.network import Network
from pipeline.models.sampling import guide
from pipeline.models.students import load_student, new_student
from pipeline.runs.run import Run
from pipeline.training import loop
from pipeline.training.memory import Footprint, footprint, saved_bytes
from pipeline.training.method import build_method, new_networks
from pipeline.training.step import TrainStep
from pipeline.training.trained import Masters, Trained
from tests.families.builder import backbones
from tests.families.measures import (
    NETWORK,
    apart_times,
    changed,
    close,
    guidable,
    networks,
    off,
    size,
)
from tests.fixtures.in_process import make_pairs


class TrainingLaws:
    """Of training."""

    def test_copies_share_what_is_frozen_and_train_the_backbone_alone(self, stock, teacher):
        student = new_student(teacher, NETWORK, 0)
        assert student.conditioner is teacher.conditioner and student.latents is teacher.latents
        part = f"{student.part}."
        assert all(name.startswith(part) for name, _ in student.named_parameters())
        assert all(name.startswith(part) for name in student.state_dict())
        assert all(each.requires_grad for each in student.parameters())
        assert not any(each.requires_grad for each in teacher.parameters())
        shared = zip(student.frozen_parts, teacher.frozen_parts, strict=True)
        assert all(ours is theirs for ours, theirs in shared)
        assert student.backbone is not teacher.backbone

    @torch.no_grad()
    def test_a_critic_can_be_told_the_step(self, stock, builder, teacher):
        critic = Critic(teacher, (), exits=2)
        x_t, labels = builder.noise(), builder.labels_of(teacher)
        condition = teacher.conditioner(labels, len(x_t))
        t = x_t.new_full((len(x_t),), teacher.schedule.start)
        assert torch.equal(critic(x_t, t, condition, step_index=1), teacher(x_t, t, condition))
        critic.exits.weight[1] = 1.0
        first, second = (critic(x_t, t, condition, step_index=each) for each in (0, 1))
        assert first.isfinite().all()
        assert not torch.allclose(first, second, atol=1e-4)

    def test_a_discriminator_reads_every_stage(self, stock, builder, config):
        """What hooks see in a whole pass, no further than needed; it tells images apart."""
        teacher = load_teacher(config)
        stages = teacher.stages()
        critic = Critic(teacher, range(len(stages)))
        labels = builder.labels_of(teacher)
        condition = teacher.conditioner(None if labels is None else labels[:1].expand(2), 2)
        inputs = Inputs(builder.noise(), apart_times(teacher), condition)
        seen = Seen(teacher, stages)
        teacher(*inputs)
        maps = seen.maps(inputs)
        hooked = [head(each) for head, each in zip(critic.heads, maps, strict=True)]
        alone = critic.logits(inputs)
        x0, together = critic.denoise_and_logits(inputs)
        assert alone.shape == (2, len(stages)) and alone.isfinite().all()
        close(alone, torch.stack(hooked, 1), 1e-5)
        close(together, alone, 1e-5)
        close(x0, teacher(*inputs), 1e-5)
        assert not torch.equal(alone[0], alone[1])
        each = [critic.logits(inputs.rows(slice(row, row + 1))) for row in range(2)]
        close(torch.cat(each), alone, 1e-4)
        critic = Critic(teacher, [0])
        seen.found.clear()
        critic.logits(inputs)
        assert {name for name, _ in seen.found} <= {*teacher.tapped(stages[:1])}
        (first,) = seen.maps(inputs)
        close(first, maps[0], 1e-5)

    def test_it_computes_in_bfloat16(self, stock, builder, teacher):
        """Heads too, without autocast; x0 and logits are in float32, and all of it learns."""
        critic = Critic(new_student(teacher, NETWORK, 0), [0])
        labels, x_t = builder.labels_of(teacher), builder.noise()
        condition = critic.denoiser.conditioner(labels, len(x_t))
        inputs = Inputs(x_t, apart_times(critic.denoiser), condition)
        exact = critic.denoise(inputs).detach()
        compute_in_half(critic)
        x0, logits = critic.denoise_and_logits(inputs)
        assert x0.dtype == logits.dtype == torch.float32
        assert 0 < (x0 - exact).norm() < 0.05 * exact.norm()
        (x0.square().mean() + logits.mean()).backward()
        gradients = [weight.grad for weight in critic.parameters() if weight.grad is not None]
        assert len(gradients) > 0.7 * len(list(critic.parameters()))
        assert all(each.isfinite().all() for each in gradients)

    @pytest.mark.long
    def test_what_is_recomputed_changes_no_bit(self, stock, builder, teacher):
        """Of a critic with a head, whole and to its early end; the more, the less is kept."""
        labels, x_t = builder.labels_of(teacher), builder.noise()
        inputs = Inputs(x_t, apart_times(teacher), teacher.conditioner(labels, len(x_t)))
        kept, first = [], None
        for recompute in (False, 3, 2, True):
            torch.manual_seed(0)
            critic = Critic(new_student(teacher, NETWORK, 0, recompute=recompute), exits=2)
            kept.append(saved_bytes(copy.deepcopy(critic.denoiser).to("meta"), 2))
            x0, logits = critic.denoise_and_logits(inputs, 0)
            (x0.square().mean() + logits.mean() + critic.logits(inputs, 1).mean()).backward()
            found = {k: v.grad for k, v in critic.named_parameters() if v.grad is not None}
            first = first or found
            assert all(torch.equal(found[name], value) for name, value in first.items())
        assert kept == sorted(kept, reverse=True) and kept[0] > kept[-1]

    @torch.no_grad()
    def test_features_are_at_their_places_in_the_image(self, stock, builder, config):
        """A patch of x_t that changes much changes most what every stage says of that place."""
        teacher = load_teacher(config)
        if not isinstance(teacher, LatentTransformer):
            pytest.skip("the narrowest stage of a UNet sees all of it at once")
        t, condition = torch.full((2,), 0.5), teacher.conditioner(builder.labels_of(teacher), 2)
        plain = Inputs(builder.noise(), t * teacher.schedule.start, condition)
        changed = plain._replace(x_t=plain.x_t.clone())
        changed.x_t[..., -2:, 2:4] += 10.0
        seen, maps = Seen(teacher, teacher.stages()), []
        for inputs in (plain, changed):
            teacher(*inputs)
            maps.append(seen.maps(inputs))
        for before, after in zip(*maps, strict=True):
            moved = (after - before).norm(dim=1)
            height, width = moved.shape[-2:]
            unit = plain.x_t.shape[-2] // height
            for place in moved.flatten(1).argmax(1).tolist():
                row, column = divmod(place % (height * width), width)
                assert unit * row >= plain.x_t.shape[-2] - 2 and 2 <= unit * column < 4

    def test_a_row_does_not_depend_on_the_others(self, stock, builder, config):
        """Whatever the lengths of prompts, and where activations are made again."""
        teacher = load_teacher(config)
        if teacher.prompts is None:
            pytest.skip("it takes no prompts")
        longer = teacher.conditioner.label("a cat and a dog and a cow that see the sea")
        labels = torch.tensor([longer, 0])
        student = new_student(teacher, NETWORK, 0, recompute=True)
        x_t, t = builder.noise(), apart_times(teacher)
        together = student(x_t, t, student.conditioner(labels, 2))
        for row in range(2):
            one = slice(row, row + 1)
            with torch.no_grad():
                alone = teacher(x_t[one], t[one], teacher.conditioner(labels[one], 1))
            close(together[one].detach(), alone, 1e-5)

    @pytest.mark.long
    def test_a_student_learns_in_the_jobs(
        self, builder, config, teacher, tmp_path, monkeypatch, figures
    ):
        """From pairs, its teacher and a discriminator; two DMD steps move student and critic."""
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        times = builder.times(teacher)
        whole = Config.model_validate(
            {
                "run": str(tmp_path / "run"),
                "data": {"name": None},
                "network": NETWORK.model_dump(mode="json"),
                "teacher": config.model_dump(mode="json"),
                "pairs": {
                    **{"count": 6, "shard_size": 6, "solver": "euler", "steps": 3},
                    "guidance": 3.0 if guidable(teacher) else 1.0,
                },
                "distill": {
                    **{"steps": 4, "regression_steps": 1, "burn_in_steps": 1, "batch_size": 4},
                    "regression": {"batch_size": 4},
                    "gan": {"real": "pairs", "smoothness": 1.0},
                    "student": {"times": times},
                    "critic": {"embedded_guidance": 1.0},
                    **{"checkpoint_every": 2, "sample_every": 4, "log_every": 1},
                },
            }
        )
        make_pairs(whole)
        local = fetch_inputs(whole, "teacher")
        run = Run(local)
        run.claim()
        assert loop.train(local) == 4
        fresh = new_student(teacher, NETWORK, 0)
        buffers = {name for name, _ in fresh.named_buffers()} & fresh.state_dict().keys()
        after, before = (stored(run, each.name) for each in run.checkpoints.commits())
        for network in ("student", "critic"):
            weights = part_of(after, network)
            moments = part_of(after, f"{network}_optimizer")
            means = {k: v for k, v in moments.items() if k.endswith("exp_avg")}
            assert len(means) == len(weights) - len(buffers), "all weights have a gradient"
            assert all(value.isfinite().all() for value in means.values())
            idle = {name_of(k, network) for k, value in means.items() if not value.any()}
            assert idle <= weights.keys() and len(idle) < 0.3 * len(weights), "nothing reads them"
            live = weights.keys() - idle
            old, new = ({k: state[k] for k in live} for state in (before, after))
            figures("trained", changed(old, new))
        run.finish()
        output = Path(local.distill.output)
        lines = (output / "metrics.jsonl").read_text().splitlines()
        losses = json.loads(lines[-1])
        assert {"regression", "matching_gradient", "gan_student", "critic"} <= losses.keys()
        student = load_student(output / "student", local.teacher)
        assert student.sampler.timesteps == tuple(times)
        if isinstance(teacher, Network):
            old, new = (dict(network.named_parameters()) for network in (teacher, student))
            assert changed(old, new) > 0.9, "all of it learns"

    @pytest.mark.long
    def test_nothing_in_a_step_waits_for_the_device(self, builder, config, teacher):
        """On the meta device, whose tensors have no values that could be waited for."""
        if isinstance(teacher, GaussianMixture):
            pytest.skip("it is a formula, for tests")
        if isinstance(teacher.backbone, Experts):
            pytest.skip("which of two experts is called is read from the times")
        distill = DistillConfig.model_validate(
            {"draws": "shared", "gan": {"real": "pairs"}, "regression": {"distance": "l2"}}
            | {"regression_steps": 0, "burn_in_steps": 0, "student": {"every": 1}}
        )
        at_meta = copy.deepcopy(teacher).to("meta")
        method = build_method(distill, at_meta, torch.device("meta"))
        networks = new_networks(distill, NETWORK, 0, at_meta)
        labels, noise = builder.labels_of(teacher), builder.noise()
        pairs = PairBatch(torch.arange(2), labels, noise, noise)
        drawn = method.draw(len(noise), torch.Generator(), pairs, (noise, labels), 0, "meta")
        step = TrainStep(
            method,
            *(in_training(network.to("meta")) for network in networks),
            guide(at_meta, 3.0 if guidable(teacher) else 1.0),
            Accelerator(cpu=True),
            microbatches=1,
            clip=1.0,
        )
        figures = step(0, {0: drawn}).figures
        assert {"regression", "matching_gradient", "gan_student", "critic"} <= figures.keys()
        assert all(value.is_meta for value in figures.values())

    def test_the_forecast_counts_what_is_there(self, builder, config, teacher, figures):
        """Weights, encoders and VAE included, and what a pass keeps; real ones beside meta's."""
        whole = Config.model_validate(
            {
                "data": {"name": None},
                "network": NETWORK.model_dump(mode="json"),
                "teacher": config.model_dump(mode="json"),
                "distill": {"regression": {"weight": 0.0}, "regression_steps": 0},
            }
        )
        counted = footprint(whole, teacher)
        student = new_student(teacher, NETWORK, 0)
        pipe = builder.open(config.output) if teacher.latents else None
        parts = [
            part
            for part in (pipe.components.values() if pipe else ())
            if isinstance(part, nn.Module) and part not in backbones(pipe)
        ]
        assert bool(counted.encoders) == (teacher.latents is not None)
        trained = sum(4 * v.numel() for v in student.parameters())
        found = Footprint(
            weights=size(teacher) + 3 * size(student),
            gradients=2 * trained,
            moments=4 * trained,
            activations=saved_bytes(student, whole.distill.batch_size // whole.distill.lanes),
            encoders=size(*parts),
        )
        for share, there in vars(found).items():
            figures("memory", off(getattr(counted, share), there))


class OnDevice(torch.optim.SGD):
    """Stands for a fused optimiser, which there is none of on the meta device."""

    def step(self, closure: Any = None) -> None:
        pass


def in_training(network: nn.Module) -> Trained:
    """With copies in bfloat16."""
    optimizer = OnDevice(network.parameters(), lr=0.0)
    optimizer.defaults["fused"] = True
    computing = copy.deepcopy(network)
    compute_in_half(computing)
    return Trained(computing, optimizer, lambda step: 0.0, Masters(network, computing))


def stored(run: Run, name: str) -> dict[str, Tensor]:
    """The state in a checkpoint."""
    with run.checkpoints.newest(only=name) as found:
        assert found
        return {k: v for file in networks(found[1]) for k, v in load_file(file).items()}


def part_of(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Of a state, what is of one network or optimiser."""
    return {key: value for key, value in state.items() if key.startswith(f"{name}.")}


def name_of(moment: str, network: str) -> str:
    """The weight that a moment of an optimiser is of."""
    own = moment.removeprefix(f"{network}_optimizer.state.").removesuffix(".exp_avg")
    return f"{network}.{own}"


class Seen:
    """What hooks find of some stages: names of modules, and what these give."""

    def __init__(self, network: Network, stages: Sequence[str]) -> None:
        self.network = network
        self.found: list[tuple[str, Any]] = []
        for name in network.tapped(stages):
            network.get_submodule(name).register_forward_hook(partial(self._note, name))

    def maps(self, inputs: Inputs) -> list[Tensor]:
        """Of each stage that was called with these inputs, (B, C, *space); they are forgotten."""
        found = self.network.of_stages([output for _, output in self.found], inputs)
        self.found.clear()
        return [self._map(each, inputs.x_t.shape[2:]) for each in found]

    def _note(self, name: str, module: nn.Module, given: Any, output: Any) -> None:
        self.found.append((name, output))

    def _map(self, features: Tensor, space: Sequence[int]) -> Tensor:
        if features.ndim > 3:
            return features
        *frames, _, _ = space
        side = round((features.shape[1] // prod(frames)) ** 0.5)
        return features.mT.unflatten(2, (*frames, side, -1))
