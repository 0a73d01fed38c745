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
from safetensors.torch import load_file, save_file

from pipeline.config import StudentConfig, TeacherConfig
from pipeline.diffusion import seeds
from pipeline.diffusion.noise import Flow, expand
from pipeline.models.critic import Critic
from pipeline.models.denoiser import blank
from pipeline.models.export.save import save_denoiser
from pipeline.models.family import FAMILIES
from pipeline.models.loading import image_format, load_teacher, teacher_fingerprint
from pipeline.models.sampling import sample_student, sample_teacher
from pipeline.models.students import load_student, new_student
from tests.families.adapter_laws import AdapterLaws
from tests.families.builder import PROMPTS, Builder, shown
from tests.families.comfyui_laws import ComfyUILaws
from tests.families.condition_laws import ConditionLaws
from tests.families.figures import LAWS, Figures, Law
from tests.families.folder_laws import FolderLaws
from tests.families.measures import (
    NETWORK,
    UNREAD,
    close,
    distance,
    guidable,
    made_by,
    perturbed,
    refused,
)
from tests.families.training_laws import TrainingLaws
from tests.fixtures.denoise import denoise
from tests.fixtures.stranger import Stranger


class Conformance(AdapterLaws, ComfyUILaws, ConditionLaws, FolderLaws, TrainingLaws):
    """All laws, over `builders`: tiny models by names."""

    builders: ClassVar[Mapping[str, Builder]] = {}
    laws: ClassVar[Mapping[str, Law]] = LAWS
    """Those of docs/conformance.md, which `bench/conformance.py` makes of these tests."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        names = [
            n for n, b in self.builders.items() if b.make or "stock" not in metafunc.fixturenames
        ]
        first = {b.family: n for n, b in reversed(self.builders.items())}
        long = metafunc.definition.get_closest_marker("long") is not None
        others = {n for n in names if long and first[self.builders[n].family] != n}
        marks = {n: [pytest.mark.prove] if n in others else [] for n in names}
        if "few" in metafunc.fixturenames:
            cases = [
                pytest.param(n, few, marks=marks[n], id=f"{n}-{few}" if few else n)
                for n in names
                for few in (None, *self.builders[n].few)
            ]
            metafunc.parametrize(("name", "few"), cases, scope="class")
        elif "name" in metafunc.fixturenames:
            each = [pytest.param(n, marks=marks[n]) for n in names]
            metafunc.parametrize("name", each, scope="class")

    @pytest.fixture(scope="class")
    @classmethod
    def builder(cls, name: str) -> Builder:
        return cls.builders[name]

    @pytest.fixture
    def stock(self) -> None:
        """Asked for by the laws of families that diffusers has a pipeline for."""

    @pytest.fixture
    def figures(self, record_property: Callable[[str, object], None]) -> Figures:
        """Takes the figures of `laws`."""
        return Figures(record_property)

    @pytest.fixture(scope="class")
    @classmethod
    def config(
        cls, builder: Builder, tiny_model: Callable[[Builder], Path], prompts: Path
    ) -> TeacherConfig:
        folder = tiny_model(builder) if builder.make else Path()
        return builder.teacher(folder, prompts)

    @pytest.fixture(scope="class")
    @classmethod
    def teacher(cls, config: TeacherConfig) -> Any:
        """Read by many laws, changed by none."""
        return load_teacher(config)

    @pytest.fixture
    def copy(self, config: TeacherConfig, tmp_path: Path) -> TeacherConfig:
        """Of the model, to be changed."""
        folder = shutil.copytree(config.output, tmp_path / "copy")
        return config.model_copy(update={"output": str(folder)})

    def test_it_is_read_by_its_family(self, builder, config, teacher):
        family = FAMILIES[builder.family]
        assert isinstance(teacher, family)
        assert not teacher.training and not any(w.requires_grad for w in teacher.parameters())
        assert teacher.shape == tuple(builder.noise()[0].shape)
        assert guidable(teacher) == builder.guidable
        assert all(not w.requires_grad for part in teacher.frozen_parts for w in part.parameters())
        images = image_format(config.model_copy(update={"prompts": None}))
        assert images.buckets == teacher.buckets
        assert images.captions == (teacher.prompts is not None)
        assert images.classes == (None if images.captions else teacher.classes)

    @torch.no_grad()
    def test_x0_is_that_of_the_pipelines_own_calls(self, stock, builder, config, teacher, figures):
        """At every step of a run of the pipeline, from what it gives its network and gets back."""
        calls = builder.calls(builder.open(config.output), teacher, 5)
        assert len(calls) >= 5
        for time, x_t, theirs in calls:
            ours = denoise(teacher, x_t, torch.full((2,), time), builder.labels_of(teacher))
            figures("x0", distance(ours, theirs))

    @pytest.mark.long
    @pytest.mark.parametrize(
        ("steps", "guidance", "negative"), [(4, 1.0, ""), (10, 4.0, "blurry"), (20, None, "")]
    )
    def test_the_samplers_end_is_the_pipelines(
        self, stock, builder, config, figures, steps, guidance, negative
    ):
        """Also with the pipeline's own guidance."""
        teacher = load_teacher(config.model_copy(update={"negative_prompt": negative}))
        if negative and teacher.prompts is None:
            pytest.skip("it takes no prompts")
        pipe = builder.open(config.output)
        guidance = (guidance or builder.guidance(pipe)) if builder.guidable else 1.0
        labels, start = builder.labels_of(teacher), builder.start(pipe, teacher)
        if builder.solver == "student":
            steps, ours = 1, sample_student(teacher, start, labels).clamp(-1, 1)
        else:
            ours = sample_teacher(teacher, start, labels, builder.solver, steps, guidance)
        theirs = builder.end(pipe, teacher, steps, guidance)
        figures("end", distance(builder.visible(teacher, ours), theirs))

    @pytest.mark.long
    @torch.no_grad()
    def test_images_need_not_be_square(self, stock, builder, config, prompts, figures):
        """x0, the last latents, the decoded images and a discriminator, at two sizes."""
        if not builder.sizes:
            figures.none("sizes", "its pipeline makes images of one size alone")
        for size in builder.sizes:
            wide = builder.sized(*size)
            teacher = load_teacher(wide.teacher(Path(config.output), prompts))
            assert teacher.pixels[1:] == size and teacher.shape[1:] == wide.space
            pipe, labels = wide.open(config.output), wide.labels_of(teacher)
            guidance = wide.guidance(pipe) if wide.guidable else 1.0
            for time, x_t, theirs in wide.calls(pipe, teacher, 5):
                ours = denoise(teacher, x_t, torch.full((2,), time), labels)
                figures("x0", distance(ours, theirs))
            for steps in (4, 20):
                start = wide.start(pipe, teacher)
                ours = sample_teacher(teacher, start, labels, wide.solver, steps, guidance)
                theirs = wide.end(pipe, teacher, steps, guidance)
                figures("sizes", distance(wide.visible(teacher, ours), theirs))
            latents = wide.called(pipe, 2, 1.0, "latent")
            images = wide.called(pipe, 2, 1.0, "pt")
            close(shown(teacher.decode(latents)), images, 1e-5)
            student = new_student(teacher, NETWORK, 0)
            assert tuple(student.call_settings[axis] for axis in student.axes) == size
            assert Critic(student).logits(blank(student, 2)).shape == (2, 1)

    @pytest.mark.parametrize(
        "statistics",
        [{}, {"latents_mean": [0.3, -0.2, 0.5, 0.1], "latents_std": [2, 3, 0.5, 1]}],
    )
    def test_latents_are_decoded_as_the_pipeline_does(self, stock, builder, copy, statistics):
        """Also with statistics that some pipelines take and others ignore."""
        file = Path(copy.output) / "vae" / "config.json"
        if not file.is_file():
            pytest.skip("it works on images")
        more = {**statistics, "shift_factor": 0.3} if statistics else {}
        weights = load_file(stored := next(file.parent.glob("*.safetensors")))
        for name in weights.keys() & more.keys():  # of LTX-Video they are among these
            weights[name] = torch.tensor(more.pop(name), dtype=torch.float32)
        save_file(weights, stored, {"format": "pt"})
        file.write_text(json.dumps(json.loads(file.read_text()) | more))
        teacher, pipe = load_teacher(copy), builder.open(copy.output)
        images = builder.called(pipe, 2, 1.0, "pt")
        if builder.output == "latent":
            latents = builder.called(pipe, 2, 1.0, "latent")
        else:
            labels = builder.labels_of(teacher)
            latents = sample_teacher(teacher, builder.noise(), labels, builder.solver, 2, 1.0)
        ours = shown(teacher.decode(latents))
        assert ours.shape[1:] == teacher.pixels
        torch.testing.assert_close(ours, images, atol=1e-5, rtol=0)

    def test_a_critics_weight_is_that_of_its_networks_own_output(self, stock, builder, teacher):
        """The square of d output / d x0, which is one number at a time."""
        if teacher.prediction == "consistency":
            pytest.skip("its own is infinite at sigma_min")
        t = teacher.schedule.time_from_fraction(torch.tensor([0.2, 0.9], dtype=torch.float64))
        x_t = builder.noise().double()
        moved = teacher.read(x_t + 1, x_t, t) - teacher.read(x_t, x_t, t)
        weighted = expand(teacher.error_weight(t), moved) * moved**2
        torch.testing.assert_close(weighted, torch.ones_like(moved), rtol=1e-6, atol=0)

    def test_prompts_are_told_apart(self, stock, teacher):
        if teacher.prompts is None:
            pytest.skip("it takes no prompts")
        tokens = teacher.conditioner(torch.tensor([0, 1, 2]), 3)["tokens"]
        assert list(teacher.prompts) == PROMPTS
        assert torch.equal(tokens[0], tokens[2]) and not torch.equal(tokens[0], tokens[1])

    @pytest.mark.long
    def test_a_stranger_gets_the_students_images(
        self, stock, builder, teacher, config, few, tmp_path, stranger: Stranger, figures
    ):
        times, renoise = builder.few[few] if few else (None, True)
        settings = StudentConfig(times=times, renoise=renoise)
        student = perturbed(new_student(teacher, NETWORK, 0, settings), 0.05)
        own = {"times": times, "renoise": renoise} if few else {}
        save_denoiser(student, tmp_path / "student", {"distill": {"student": own}})
        calls = builder.stranger(student)
        noise = (seeds.renewed(builder.noise(), number) for number in range(8))
        fresh = [builder.stepped(each) for each in noise]
        images, last, taken = stranger(
            tmp_path / "student",
            {"calls": calls, "fresh": fresh, "imports": [*student.imports, *builder.imports]}
            | {"sliced": builder.sliced},
            scaled=teacher.latents is None,
        )
        ours = made_by(student, builder)
        theirs, made = builder.images(images), shown(student.decode(ours))
        assert theirs.shape == made.shape
        figures("opened", float((theirs - made).abs().max()))
        if teacher.latents is None:
            close(last, ours, 1e-5)
        if teacher.latents is not None:
            asked = torch.tensor(student.sampler.timesteps)
            _, told = student.inputs(builder.noise(len(asked)), asked)
            unit = 1000 if isinstance(student.schedule, Flow) else 1
            assert taken.tolist() == pytest.approx([unit * t for t in told.tolist()])
        back = load_student(tmp_path / "student", config)
        weights = student.backbone.state_dict()
        assert all(torch.equal(w, weights[n]) for n, w in back.backbone.state_dict().items())
        close(made_by(back, builder), ours, 1e-5)

    def test_the_fingerprint_covers_what_it_computes(self, stock, builder, copy, tmp_path):
        before, folder = teacher_fingerprint(copy), Path(copy.output)
        other = tmp_path / "other.prompts"
        other.write_text('"a cow"\n')
        for change in ({"prompts": str(other)}, {"negative_prompt": "other"}):
            assert teacher_fingerprint(copy.model_copy(update=change)) != before
        assert teacher_fingerprint(copy) == before
        on_latents = (folder / "vae").is_dir()
        if on_latents and not builder.guidable:
            assert teacher_fingerprint(copy.model_copy(update={"embedded_guidance": 1.0})) != before
        if on_latents:
            larger = copy.model_copy(update={"image_size": builder.larger(2)})
            assert teacher_fingerprint(larger) != before
        files = [each for each in folder.rglob("*") if each.is_file() and each.name not in UNREAD]
        for file in files if on_latents else {*files} - {folder / "model_index.json"}:
            content = file.read_bytes()
            file.write_bytes(content + b"\n")
            assert teacher_fingerprint(copy) != before, file
            file.write_bytes(content)
        assert teacher_fingerprint(copy) == before
        index = folder / "model_index.json"
        another = {"scheduler": ["diffusers", "DDPMParallelScheduler"]}
        index.write_text(json.dumps(json.loads(index.read_text()) | another))
        assert teacher_fingerprint(copy) != before

    def test_what_it_does_not_take_is_one_line(self, stock, builder, copy):
        folder = Path(copy.output)
        index = folder / "model_index.json"
        known = json.loads(index.read_text())
        scheduler = next(folder.glob("**/scheduler_config.json"))
        content = scheduler.read_text()
        scheduler.write_text(json.dumps(builder.wrong))
        another = {"scheduler": ["diffusers", builder.wrong["_class_name"]]}
        index.write_text(json.dumps(known | another))
        problem = refused(copy)
        assert any(said in problem for said in ("its noise is", builder.wrong["_class_name"]))
        scheduler.write_text(content)
        index.write_text(json.dumps(known))
        load_teacher(copy)
        backbone = next(f for f in folder.glob("**/config.json") if is_backbone(f))
        whole = backbone.read_text()
        index.write_text(json.dumps(known | {"_class_name": "KandinskyPipeline"}))
        backbone.write_text(json.dumps(json.loads(whole) | {"_class_name": "NoModel"}))
        assert "teacher.output" in refused(copy)
        index.write_text(json.dumps(known))
        backbone.write_text(whole)
        backbone.parent.joinpath("diffusion_pytorch_model.safetensors").unlink()
        assert str(backbone.parent) in refused(copy)


def is_backbone(file: Path) -> bool:
    return not file.parent.name.startswith(
        ("vae", "text_encoder", "image_encoder", "tokenizer", "scheduler")
    )
