"""ComfyUI, whose side `tests/fixtures/comfyui.py` tells: names, and the steps of a workflow."""

import copy
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
from pipeline.models.export.comfyui.experts import experts
from pipeline.models.export.comfyui.graph import Files, workflow
from pipeline.models.export.comfyui.weights import adapters
from pipeline.models.export.save import save_denoiser
from pipeline.models.lora import FILE, SECOND, lora_files, merged
from pipeline.models.network import Network
from pipeline.models.students import new_student
from pipeline.utils.errors import UserError
from tests.families.adapter_laws import add_adapters
from tests.families.measures import LORA, NETWORK, adapted, close, error, made_by, perturbed
from tests.fixtures.comfyui import FACTS, Names, known_as, sampled

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
        files = {
            begin: load_file(tmp_path / "student" / name)
            for name, begin in lora_files(student).items()
        }
        assert sum(map(len, files.values())) == 2 * len(linear)
        base, expected = builder.open(config.output), made_by(student, builder)
        if hasattr(base, "load_lora_weights") and builder.output == "latent":
            base.scheduler = builder.open(tmp_path / "student").scheduler
            assert error(builder.called(base, 1, 1.0, "latent"), expected) > 0.01
            add_adapters(base, student, tmp_path / "student")
            assert error(builder.called(base, 1, 1.0, "latent"), expected) < 1e-4
        if (family := known_as(builder.family)) not in FACTS["modules"]:
            return
        added, after = {}, whole.backbone.state_dict()
        for begin, file in files.items():
            names = Names(family, part(before, begin))
            found = names.added(adapters(whole, teacher.comfyui, begin) or file)
            added |= {f"{begin}{name}": change for name, change in found.items()}
        assert added.keys() == {*linear}
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
        alone = {each.begin: expert_alone(student, each.begin) for each in experts(student)}
        files = Files([*alone], (), ["c"], "v")
        graph = workflow(student, student.comfyui, files, "s")

        def denoise(x, t, file):
            return alone[file](x, t, condition)

        found = sampled(graph, denoise, student, builder.noise())
        close(found, made_by(student, builder), 1e-4)

    @pytest.mark.parametrize("learnt", [{}, {"lora": LORA}], ids=["whole", "adapters"])
    @pytest.mark.parametrize("steps", [1, 2])
    def test_what_a_workflow_loads_is_copied_or_published(
        self, stock, builder, config, teacher, learnt, steps, tmp_path
    ):
        """Two experts are two files, and one where a student of one step asks one alone."""
        if not known(teacher):
            pytest.skip("ComfyUI does not know it")
        settings = StudentConfig(**learnt, times=builder.times(teacher)[:steps])
        student = merged(new_student(teacher, NETWORK, 0, settings))
        how = save_comfyui(student, tmp_path, "s")
        graph = json.loads((tmp_path / "comfyui" / "workflow.json").read_text())
        inputs = [value for node in graph.values() for value in node["inputs"].values()]
        loaded = {each for each in inputs if str(each).endswith(".safetensors")}
        copies = dict(line.split()[1:] for line in how.splitlines() if line.startswith("cp "))
        folders = {"vae": Path(config.output)}
        for source in copies.keys() - {FILE, SECOND}:
            place = folders.get(source.partition("/")[0], tmp_path)
            assert (place / source).is_file(), source
        copied = {Path(target).name for target in copies.values()}
        known_files = (teacher.comfyui.vae, teacher.comfyui.vision)
        published = {*teacher.comfyui.encoders, *known_files} - {None}
        own = {each for each in loaded if each.startswith(TEACHER)}
        assert loaded - own == copied | published
        kinds = [node["class_type"] for node in graph.values()]
        added = kinds.count("LoraLoaderModelOnly")
        assert bool(own) == bool(added or teacher.comfyui.checkpoint)
        asked = len(set(student.asked(student.sampler.timesteps)))
        assert asked == kinds.count("SamplerCustom") == (steps if len(student.networks) > 1 else 1)
        assert added in (0, asked) and bool(added) == bool(learnt and not student.comfyui.kohya)
        assert all(f"`{each}`" in how for each in published)
        for node in graph.values():
            check_node(node, graph)


def known(network: Network) -> Any:
    return network.comfyui is not None and network.prediction in PREDICTIONS


def part(weights, begin):
    return {k.removeprefix(begin): v for k, v in weights.items() if k.startswith(begin)}


def expert_alone(student: Network, begin: str) -> Network:
    """The student, of which one network is asked at all times."""
    whole = copy.deepcopy(student)
    if begin:
        expert = whole.backbone.get_submodule(begin.removesuffix("."))
        whole.backbone.transformer = whole.backbone.transformer_2 = expert
    return whole


def check_node(node: dict[str, Any], graph: dict[str, Any]) -> None:
    """See that a node has all of its inputs and no others, from outputs that are there."""
    if told := FACTS["nodes"].get(node["class_type"]):
        needed, given = {*told["inputs"]}, {*node["inputs"]}
        assert needed <= given <= needed | {*told.get("optional", ())}, node
    for value in node["inputs"].values():
        if isinstance(value, list):
            kind = graph[value[0]]["class_type"]
            assert value[1] < FACTS["nodes"].get(kind, {}).get("outputs", 1), node
