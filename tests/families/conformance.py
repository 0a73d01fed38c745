"""The laws that every family keeps; a test class runs them over the builders that it names.

A family of one test file is registered there, and runs them all by

    class TestToy(Conformance):
        builders = {"toy": OnLatents(family="toy", make=toy, ...)}
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.config import Config, CriticConfig, NetworkConfig, StudentConfig, TeacherConfig
from pipeline.data.fetch import fetch_inputs
from pipeline.diffusion import seeds
from pipeline.diffusion.noise import Flow
from pipeline.models.critic import Critic
from pipeline.models.denoiser import Denoiser, Inputs
from pipeline.models.export.save import save_denoiser
from pipeline.models.family import FAMILIES
from pipeline.models.loading import load_denoiser, load_teacher, teacher_fingerprint
from pipeline.models.lora import FILE, load_lora, merged
from pipeline.models.network import Network
from pipeline.models.sampling import sample_student, sample_teacher
from pipeline.models.students import load_student, new_student
from pipeline.runs import identity
from pipeline.runs.checkpoint import read_part
from pipeline.training import loop
from pipeline.training.memory import footprint, saved_bytes
from pipeline.utils.errors import UserError
from tests.families.builder import PROMPTS, Builder, shown
from tests.fixtures.denoise import denoise
from tests.fixtures.in_process import make_pairs
from tests.fixtures.stranger import Stranger

NETWORK = NetworkConfig(channels=(8, 16), attention=(False, True), norm_groups=4)
LORA = {"rank": 4, "alpha": 6.0}


def close(ours: Tensor, theirs: Tensor, bar: float) -> None:
    torch.testing.assert_close(ours, theirs, atol=bar * theirs.std().item(), rtol=bar)


def error(found: Tensor, expected: Tensor) -> float:
    """The largest, to the largest value: at t = 999 what is read as x0 may be far above 1."""
    return float((found - expected).abs().max() / expected.abs().max())


def learnt(network: nn.Module) -> dict[str, Tensor]:
    return {k: v for k, v in network.named_parameters() if v.requires_grad}


@torch.no_grad()
def perturbed(network: Network, by: float) -> Network:
    rng = torch.Generator().manual_seed(3)
    for weight in learnt(network).values():
        weight.add_(by * torch.randn(weight.shape, generator=rng))
    return network


def adapted(teacher: Denoiser, kind: type = StudentConfig, seed: int = 0, **lora: Any) -> Network:
    return new_student(teacher, NETWORK, seed, kind(lora={**LORA, **lora}))


def size(*networks: nn.Module) -> int:
    """Bytes of all tensors of networks, each counted once."""
    values = [v for each in networks for v in (*each.parameters(), *each.buffers())]
    return sum({v.data_ptr(): v.numel() * v.element_size() for v in values if v.numel()}.values())


class Conformance:
    """All laws, over `builders`: tiny models by names."""

    builders: ClassVar[Mapping[str, Builder]] = {}

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        names = [
            n for n, b in self.builders.items() if b.make or "stock" not in metafunc.fixturenames
        ]
        if "few" in metafunc.fixturenames:
            cases = [(n, f) for n in names for f in (None, *self.builders[n].few)]
            ids = [f"{name}-{few}" if few else name for name, few in cases]
            metafunc.parametrize(("name", "few"), cases, ids=ids, scope="class")
        elif "name" in metafunc.fixturenames:
            metafunc.parametrize("name", names, scope="class")

    @pytest.fixture
    def builder(self, name: str) -> Builder:
        return self.builders[name]

    @pytest.fixture
    def stock(self) -> None:
        """Asked for by the laws of families that diffusers has a pipeline for."""

    @pytest.fixture
    def config(
        self, builder: Builder, tiny_model: Callable[[Builder], Path], prompts: Path
    ) -> TeacherConfig:
        folder = tiny_model(builder) if builder.make else Path()
        return builder.teacher(folder, prompts)

    @pytest.fixture
    def teacher(self, config: TeacherConfig) -> Any:
        return load_teacher(config)

    @pytest.fixture
    def copy(self, config: TeacherConfig, tmp_path: Path) -> TeacherConfig:
        """Of the model, to be changed."""
        folder = shutil.copytree(config.output, tmp_path / "copy")
        return config.model_copy(update={"output": str(folder)})

    def made_by(self, network: Denoiser, builder: Builder) -> Tensor:
        return sample_student(network, builder.noise(), builder.labels_of(network))

    def test_it_is_read_by_its_family(self, builder, config, teacher):
        family = FAMILIES[builder.family]
        assert isinstance(teacher, family)
        assert not teacher.training and not any(w.requires_grad for w in teacher.parameters())
        assert teacher.shape == tuple(builder.noise()[0].shape)
        assert all(not w.requires_grad for part in teacher.frozen_parts for w in part.parameters())

    @torch.no_grad()
    def test_x0_is_that_of_the_pipelines_own_calls(self, stock, builder, config, teacher):
        """At every step of a run of the pipeline, from what it gives its network and gets back."""
        calls = builder.calls(builder.open(config.output), teacher, 5)
        assert len(calls) >= 5
        for time, x_t, theirs in calls:
            ours = denoise(teacher, x_t, torch.full((2,), time), builder.labels_of(teacher))
            close(ours, theirs, 1e-5)

    @pytest.mark.parametrize(
        ("steps", "guidance", "negative"), [(4, 1.0, ""), (10, 4.0, "blurry"), (10, 4.0, "")]
    )
    def test_the_samplers_end_is_the_pipelines(
        self, stock, builder, config, steps, guidance, negative
    ):
        teacher = load_teacher(config.model_copy(update={"negative_prompt": negative}))
        if negative and teacher.prompts is None:
            pytest.skip("it takes no prompts")
        pipe = builder.open(config.output)
        if not guidable(teacher):
            guidance = 1.0
        labels, start = builder.labels_of(teacher), builder.start(pipe, teacher)
        if builder.solver == "student":
            steps, ours = 1, sample_student(teacher, start, labels).clamp(-1, 1)
        else:
            ours = sample_teacher(teacher, start, labels, builder.solver, steps, guidance)
        theirs = builder.end(pipe, teacher, steps, guidance)
        close(builder.visible(teacher, ours), theirs, 1e-4)

    def test_latents_are_decoded_as_the_pipeline_does(self, stock, builder, config, teacher):
        if teacher.latents is None:
            pytest.skip("it works on images")
        pipe = builder.open(config.output)
        images = builder.called(pipe, 2, 1.0, "pt")
        if builder.output == "latent":
            latents = builder.called(pipe, 2, 1.0, "latent")
        else:
            labels = builder.labels_of(teacher)
            latents = sample_teacher(teacher, builder.noise(), labels, builder.solver, 2, 1.0)
        ours = shown(teacher.decode(latents))
        assert ours.shape[1:] == teacher.pixels
        torch.testing.assert_close(ours, images, atol=1e-5, rtol=0)

    def test_prompts_are_told_apart(self, stock, teacher):
        if teacher.prompts is None:
            pytest.skip("it takes no prompts")
        tokens = teacher.conditioner(torch.tensor([0, 1, 2]), 3)["tokens"]
        assert teacher.prompts == PROMPTS
        assert torch.equal(tokens[0], tokens[2]) and not torch.equal(tokens[0], tokens[1])

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

    def test_a_discriminator_reads_every_stage(self, stock, builder, teacher):
        """Its maps are those of a whole pass, and they tell one image from another."""
        stages = teacher.stages()
        critic = Critic(teacher, range(len(stages)))
        condition = teacher.conditioner(builder.labels_of(teacher), 2)
        t = torch.full((2,), teacher.schedule.start / 2)
        inputs = Inputs(builder.noise(), t, condition)
        alone = critic.logits(inputs)
        x0, together = critic.denoise_and_logits(inputs)
        assert alone.shape == (2, len(stages)) and alone.isfinite().all()
        close(together, alone, 1e-5)
        close(x0, teacher(*inputs), 1e-5)
        assert not torch.equal(alone[0], alone[1])

    def test_a_student_learns_in_the_jobs(
        self, builder, config, teacher, name, tmp_path, monkeypatch
    ):
        """From pairs, its teacher and a discriminator, in two steps."""
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
                    **{"checkpoint_every": 4, "sample_every": 4, "log_every": 2},
                },
            }
        )
        make_pairs(whole)
        local = fetch_inputs(whole, "teacher")
        identity.claim(local)
        assert loop.train(local) == 4
        with identity.history(local).newest() as found:
            for network in ("student", "critic"):
                weights = read_part(found[1], network)
                moments = read_part(found[1], f"{network}_optimizer")
                means = [v for k, v in moments.items() if k.endswith("exp_avg")]
                buffers = sum(1 for _ in teacher.buffers())
                assert len(means) >= len(weights) - buffers, "all weights have a gradient"
                assert all(value.isfinite().all() for value in (*means, *weights.values()))
        identity.finish(local)
        output = Path(local.distill.output)
        lines = (output / "metrics.jsonl").read_text().splitlines()
        figures = json.loads(lines[-1])
        assert {"regression", "matching_gradient", "gan_student", "critic"} <= figures.keys()
        student = load_student(output / "student", local.teacher)
        assert student.sampler.timesteps == tuple(times)
        if isinstance(teacher, Network):
            pairs = zip(student.parameters(), teacher.parameters(), strict=True)
            changed = [bool((ours != theirs).any()) for ours, theirs in pairs]
            assert sum(changed) > 0.9 * len(changed), "all of it learns"

    def test_a_stranger_gets_the_students_images(
        self, stock, builder, teacher, config, few, tmp_path, stranger: Stranger
    ):
        times, renoise = builder.few[few] if few else (None, True)
        settings = StudentConfig(times=times, renoise=renoise)
        student = perturbed(new_student(teacher, NETWORK, 0, settings), 0.05)
        own = {"times": times, "renoise": renoise} if few else {}
        save_denoiser(student, tmp_path / "student", {"distill": {"student": own}})
        given, named = builder.stranger(student)
        fresh = [seeds.renewed(builder.noise(), number) for number in range(4)]
        images, last, taken = stranger(
            tmp_path / "student",
            {"given": given, "named": named, "fresh": fresh, "imports": student.imports},
            scaled=teacher.latents is None,
        )
        ours = self.made_by(student, builder)
        torch.testing.assert_close(images, shown(student.decode(ours)), atol=1e-5, rtol=0)
        if teacher.latents is None:
            close(last, ours, 1e-5)
        unit = 1000 if isinstance(student.schedule, Flow) else 1
        if teacher.latents is not None:
            assert taken.tolist() == pytest.approx([unit * t for t in student.sampler.timesteps])
        back = load_student(tmp_path / "student", config)
        close(self.made_by(back, builder), ours, 1e-6)

    def test_adapters_begin_as_the_teacher_and_share_its_tensors(self, stock, builder, teacher):
        student, critic = adapted(teacher), adapted(teacher, CriticConfig)
        tensors = {v.data_ptr() for v in (*teacher.parameters(), *teacher.buffers())}
        for network in (student, critic):
            assert torch.equal(*(self.made_by(each, builder) for each in (network, teacher)))
            adapters = learnt(network)
            assert all(".lora_A." in name or ".lora_B." in name for name in adapters)
            rest = {*network.parameters(), *network.buffers()} - {*adapters.values()}
            assert {v.data_ptr() for v in rest} == tensors
        first = next(name for name in learnt(student) if ".lora_A." in name)
        others = (student, critic, adapted(teacher), adapted(teacher, seed=1))
        firsts = [learnt(each)[first] for each in others]
        assert torch.equal(firsts[0], firsts[2]), "from the seed"
        assert not torch.equal(firsts[0], firsts[1]) and not torch.equal(firsts[0], firsts[3])
        assert not any(each.requires_grad for each in teacher.parameters())
        assert not hasattr(teacher.backbone, "peft_config")
        condition = student.conditioner(builder.labels_of(student), 2)
        x0 = student.sampler.images(student, builder.noise(), condition)
        x0.square().mean().backward()
        second = [v.grad for k, v in learnt(student).items() if ".lora_B." in k]
        assert all(grad is not None and grad.isfinite().all() for grad in second)
        assert any(grad.any() for grad in second)

    def test_its_own_targets_are_there(self, stock, teacher):
        named = {name for name, _ in teacher.backbone.named_modules()}
        for target in teacher.lora_modules:
            assert any(name.endswith(f".{target}") for name in named), target
        with pytest.raises(UserError, match=r"distill\.student\.lora\.modules: to_z"):
            adapted(teacher, modules=("to_z",))

    def test_merged_as_a_lora_file_and_in_training_it_gives_one_image(
        self, stock, builder, config, teacher, tmp_path
    ):
        before = {name: value.clone() for name, value in teacher.state_dict().items()}
        student = perturbed(adapted(teacher), 0.2)
        expected = self.made_by(student, builder)
        assert error(self.made_by(teacher, builder), expected) > 0.01
        whole = merged(student)
        assert all(torch.equal(value, before[k]) for k, value in teacher.state_dict().items())
        assert whole.state_dict().keys() == before.keys()
        save_denoiser(whole, tmp_path / "student", {})
        loaded = load_denoiser(tmp_path / "student", "", config).eval()
        assert error(self.made_by(loaded, builder), expected) < 1e-5
        again = adapted(teacher)
        load_lora(again, tmp_path / "student")
        assert error(self.made_by(again, builder), expected) < 1e-5
        with pytest.raises(RuntimeError, match="has other adapters"):
            load_lora(adapted(teacher, rank=2), tmp_path / "student")
        file, names = load_file(tmp_path / "student" / FILE), dict(before)
        assert len(file) == len(learnt(student))
        for key in file:
            assert f"{key.rsplit('.lora_', 1)[0]}.weight" in names, "no key is unmatched"
        base = builder.open(config.output)
        if not hasattr(base, "load_lora_weights"):
            return
        exported = builder.open(tmp_path / "student")
        assert error(builder.called(exported, 1, 1.0, "latent"), expected) < 1e-5
        base.scheduler = exported.scheduler
        assert error(builder.called(base, 1, 1.0, "latent"), expected) > 0.01
        base.load_lora_weights(tmp_path / "student")
        assert error(builder.called(base, 1, 1.0, "latent"), expected) < 1e-5

    def test_without_adapters_nothing_is_merged_and_no_file_is_left(self, stock, teacher, tmp_path):
        student = new_student(teacher, NETWORK, 0, StudentConfig())
        assert merged(student) is student
        save_denoiser(student, tmp_path / "student", {})
        assert not (tmp_path / "student" / FILE).exists()

    def test_the_forecast_counts_what_is_there(self, builder, config, teacher):
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
            for name, part in (pipe.components.items() if pipe else ())
            if isinstance(part, nn.Module) and name != teacher.part
        ]
        assert counted.encoders == pytest.approx(size(*parts), rel=0.05)
        assert bool(counted.encoders) == (teacher.latents is not None)
        assert counted.weights == pytest.approx(size(teacher) + 3 * size(student), rel=0.05)
        trained = sum(4 * v.numel() for v in student.parameters())
        assert counted.gradients == pytest.approx(2 * trained, rel=0.05)
        assert counted.moments == pytest.approx(4 * trained, rel=0.05)
        real = saved_bytes(student, whole.distill.batch_size // whole.distill.lanes)
        assert counted.activations == pytest.approx(real, rel=0.05)

    def test_the_fingerprint_covers_what_it_computes(self, stock, builder, copy, tmp_path):
        before, folder = teacher_fingerprint(copy), Path(copy.output)
        other = tmp_path / "other.prompts"
        other.write_text('"a cow"\n')
        for change in ({"prompts": str(other)}, {"negative_prompt": "other"}):
            assert teacher_fingerprint(copy.model_copy(update=change)) != before
        assert teacher_fingerprint(copy) == before
        scheduler = next(folder.glob("**/scheduler_config.json"))
        content = scheduler.read_text()
        scheduler.write_text(content + "\n")
        assert teacher_fingerprint(copy) != before
        scheduler.write_text(content)
        weights = builder.save(tmp_path / "seed", seed=1)
        assert teacher_fingerprint(copy.model_copy(update={"output": str(weights)})) != before

    def test_what_it_does_not_take_is_one_line(self, stock, builder, copy):
        folder = Path(copy.output)
        scheduler = next(folder.glob("**/scheduler_config.json"))
        content = scheduler.read_text()
        scheduler.write_text(json.dumps(builder.wrong))
        refused(copy)
        scheduler.write_text(content)
        load_teacher(copy)
        index = folder / "model_index.json"
        known = json.loads(index.read_text())
        backbone = next(f for f in folder.glob("**/config.json") if is_backbone(f))
        whole = backbone.read_text()
        index.write_text(json.dumps(known | {"_class_name": "KandinskyPipeline"}))
        backbone.write_text(json.dumps(json.loads(whole) | {"_class_name": "NoModel"}))
        assert "teacher.output" in refused(copy)
        index.write_text(json.dumps(known))
        backbone.write_text(whole)
        backbone.parent.joinpath("diffusion_pytorch_model.safetensors").unlink()
        assert str(backbone.parent) in refused(copy)


def guidable(teacher: Denoiser) -> bool:
    try:
        teacher.conditioner.null(1)
    except UserError:
        return False
    return True


def refused(config: TeacherConfig) -> str:
    with pytest.raises(UserError) as found:
        load_teacher(config)
    assert "\n" not in str(found.value)
    return str(found.value)


def is_backbone(file: Path) -> bool:
    return not file.parent.name.startswith(("vae", "text_encoder", "tokenizer", "scheduler"))
