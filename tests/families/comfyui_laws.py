"""ComfyUI, whose side `tests/fixtures/comfyui.py` tells: names, and the steps of a workflow."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pipeline.config import StudentConfig
from pipeline.models.export.comfyui import TEACHER, save_comfyui
from pipeline.models.export.comfyui.check import check_comfyui
from pipeline.models.export.comfyui.graph import workflow
from pipeline.models.export.comfyui.weights import adapters
from pipeline.models.export.save import save_denoiser
from pipeline.models.lora import FILE, lora_files, merged
from pipeline.models.network import Network
from pipeline.models.students import new_student
from pipeline.utils.errors import UserError
from tests.families.adapter_laws import add_adapters
from tests.families.measures import NETWORK, adapted, close, error, made_by, perturbed
from tests.fixtures.comfyui import FACTS, Names, sampled

FILES = {"unet": "u", "vae": "v", "clips": ["c"], "lora": None}
PREDICTIONS = ("epsilon", "flow_prediction")


class ComfyUILaws:
    """Of all families; of those that ComfyUI does not know, that they are refused."""

    def test_adapters_of_all_linear_modules_are_matched(
        self, stock, builder, config, teacher, tmp_path
    ):
        """By diffusers, whose pipeline then makes the student's image, and by ComfyUI."""
        modules = teacher.backbone.named_modules()
        linear = tuple(name for name, each in modules if isinstance(each, nn.Linear))
        student = perturbed(adapted(teacher, modules=linear), 0.1)
        whole, before = merged(student), teacher.backbone.state_dict()
        save_denoiser(whole, tmp_path / "student", {})
        files = [load_file(tmp_path / "student" / name) for name in lora_files(student)]
        assert sum(map(len, files)) == 2 * len(linear)
        base, expected = builder.open(config.output), made_by(student, builder)
        if hasattr(base, "load_lora_weights") and builder.output == "latent":
            base.scheduler = builder.open(tmp_path / "student").scheduler
            assert error(builder.called(base, 1, 1.0, "latent"), expected) > 0.01
            add_adapters(base, student, tmp_path / "student")
            assert error(builder.called(base, 1, 1.0, "latent"), expected) < 1e-4
        if builder.family not in FACTS["modules"]:
            return
        added = Names(builder.family, before).added(adapters(whole, teacher.comfyui) or files[0])
        assert added.keys() == {*linear}
        after = whole.backbone.state_dict()
        for name, change in added.items():
            learnt = after[f"{name}.weight"] - before[f"{name}.weight"]
            torch.testing.assert_close(change, learnt, atol=1e-5, rtol=1e-5, msg=name)

    @torch.no_grad()
    def test_a_workflow_takes_the_students_steps(self, stock, builder, teacher, few):
        times, renoise = builder.few[few] if few else (None, True)
        settings = StudentConfig(times=times, renoise=renoise)
        student = perturbed(new_student(teacher, NETWORK, 0, settings), 0.05)
        if not known(student) or student.sampler.timesteps[0] != student.schedule.start:
            with pytest.raises(UserError, match=r"export\.comfyui"):
                check_comfyui(student)
            return
        if not student.comfyui.depths:  # tiny UNets have none of those that ComfyUI knows
            check_comfyui(student)
        condition = student.conditioner(builder.labels_of(student), 2)
        graph = workflow(student, student.comfyui, FILES, "s")
        found = sampled(graph, lambda x, t: student(x, t, condition), student, builder.noise())
        close(found, made_by(student, builder), 1e-4)

    @pytest.mark.parametrize("how_learnt", ["whole", "adapters"])
    def test_what_a_workflow_loads_is_copied_or_published(
        self, stock, config, teacher, how_learnt, tmp_path
    ):
        if not known(teacher):
            pytest.skip("ComfyUI does not know it")
        learnt = adapted(teacher) if how_learnt == "adapters" else new_student(teacher, NETWORK, 0)
        how = save_comfyui(merged(learnt), tmp_path, "s")
        graph = json.loads((tmp_path / "comfyui" / "workflow.json").read_text())
        inputs = [value for node in graph.values() for value in node["inputs"].values()]
        loaded = {each for each in inputs if str(each).endswith(".safetensors")}
        copies = dict(line.split()[1:] for line in how.splitlines() if line.startswith("cp "))
        folders = {"vae": Path(config.output)}
        for source in copies.keys() - {FILE}:
            place = folders.get(source.partition("/")[0], tmp_path)
            assert (place / source).is_file(), source
        copied = {Path(target).name for target in copies.values()}
        published = {*teacher.comfyui.encoders, teacher.comfyui.vae} - {None}
        assert copied <= loaded <= copied | published | {TEACHER}
        assert all(f"`{each}`" in how for each in published)
        links = [each for each in inputs if isinstance(each, list)]
        assert all(target in graph and port == 0 for target, port in links)


def known(network: Network) -> Any:
    return network.comfyui is not None and network.prediction in PREDICTIONS
