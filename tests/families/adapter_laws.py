"""Adapters: they begin as nothing, share the teacher's tensors, and leave in diffusers' format."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.config import CriticConfig, StudentConfig
from pipeline.diffusion.sampler import FewStepSampler
from pipeline.models.export.save import save_denoiser
from pipeline.models.loading import load_denoiser
from pipeline.models.lora import FILE, load_lora, lora_files, merged
from pipeline.models.network import Network
from pipeline.models.quantized import QuantizedLinear, quantized
from pipeline.models.students import new_student
from pipeline.utils.errors import UserError
from tests.families.builder import backbones
from tests.families.measures import NETWORK, adapted, apart_times, error, learnt, made_by, perturbed

PROJECTIONS = (
    *("to_q", "to_k", "to_v", "to_out.0"),
    *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
)
"""Of attention, in diffusers; the second line is of two streams."""


class AdapterLaws:
    """Of LoRA."""

    def test_adapters_begin_as_the_teacher_and_share_its_tensors(self, stock, builder, teacher):
        student, critic = adapted(teacher), adapted(teacher, CriticConfig)
        tensors = {v.data_ptr() for v in (*teacher.parameters(), *teacher.buffers())}
        for network in (student, critic):
            assert torch.equal(*(made_by(each, builder) for each in (network, teacher)))
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
        student = student.with_sampler(
            FewStepSampler(student.schedule, tuple(builder.times(student)))
        )
        condition = student.conditioner(builder.labels_of(student), 2)
        x0 = student.sampler.images(student, builder.noise(), condition)
        x0.square().mean().backward()
        second = {k: v.grad for k, v in learnt(student).items() if ".lora_B." in k}
        idle = {k for k in second if k.partition(".lora_")[0].endswith(builder.idle)}
        assert {k for k, grad in second.items() if grad is None} == idle
        grads = [grad for grad in second.values() if grad is not None]
        assert all(grad.isfinite().all() for grad in grads) and any(grad.any() for grad in grads)

    @pytest.mark.parametrize(("format", "bar"), [("int8", 0.01), ("nf4", 0.15)])
    def test_a_base_in_fewer_bits_is_near_shared_and_learnt_through(
        self, stock, builder, teacher, format, bar
    ):
        """Of x0 in the bar; of the gradients that it passes on, which a skip may leave small, in 3.

        Largest of all families: x0 0.005 and 0.11, gradients 0.013 and 0.32.
        """
        base = quantized(copy.deepcopy(teacher), format, torch.device("cpu"))
        student, critic = adapted(base), adapted(base, CriticConfig)
        tensors = {v.data_ptr() for v in (*base.parameters(), *base.buffers())}
        for network in (student, critic):
            rest = {*network.parameters(), *network.buffers()} - {*learnt(network).values()}
            assert {v.data_ptr() for v in rest} == tensors
        beneath = {base.get_submodule(name.partition(".lora_")[0]) for name in learnt(student)}
        assert all(isinstance(each, QuantizedLinear) for each in beneath)
        x_t, t = builder.noise(), apart_times(teacher)
        condition = teacher.conditioner(builder.labels_of(teacher), 2)
        found = []
        for network in (adapted(teacher), student, student):
            given = x_t.clone().requires_grad_()
            x0 = network(given, t, condition)
            x0.square().mean().backward()
            found.append((x0.detach(), given.grad))
        exact, rounded, again = found
        for ours, theirs, same, most in zip(rounded, exact, again, (bar, 3 * bar), strict=True):
            assert 0 < (ours - theirs).norm() / theirs.norm() < most
            assert torch.equal(ours, same)

    def test_all_projections_of_attention_are_adapted(self, stock, teacher):
        named = {name for name, _ in teacher.backbone.named_modules()}
        meant = {
            f"{teacher.part}.{name}.{each}"
            for name in (name.rpartition(".")[0] for name in named if name.endswith(".to_q"))
            for each in PROJECTIONS
            if f"{name}.{each}" in named
        }
        assert {name.partition(".lora_")[0] for name in learnt(adapted(teacher))} == meant
        with pytest.raises(
            UserError, match=r"distill\.student\.lora\.modules: to_z.*has to_q, to_k"
        ):
            adapted(teacher, modules=("to_z",))

    def test_merged_as_a_lora_file_and_in_training_it_gives_one_image(
        self, stock, builder, config, teacher, tmp_path, figures
    ):
        before = {name: value.clone() for name, value in teacher.state_dict().items()}
        student = perturbed(adapted(teacher), 0.2)
        expected = made_by(student, builder)
        assert error(made_by(teacher, builder), expected) > 0.01
        whole = merged(student)
        assert all(torch.equal(value, before[k]) for k, value in teacher.state_dict().items())
        assert whole.state_dict().keys() == before.keys()
        save_denoiser(whole, tmp_path / "student", {})
        loaded = load_denoiser(tmp_path / "student", "", config).eval()
        assert error(made_by(loaded, builder), expected) < 1e-5
        again = adapted(teacher)
        load_lora(again, tmp_path / "student")
        assert error(made_by(again, builder), expected) < 1e-5
        with pytest.raises(RuntimeError, match="has other adapters"):
            load_lora(adapted(teacher, rank=2), tmp_path / "student")
        first, *second = lora_files(student)
        parts = backbones(builder.open(config.output))
        assert len(parts) == len([first, *second])
        files = [load_file(tmp_path / "student" / name) for name in (first, *second)]
        assert sum(map(len, files)) == len(learnt(student))
        for part, file in zip(parts, files, strict=True):
            names = {
                name.partition(".")[2] for name in {key.rsplit(".lora_", 1)[0] for key in file}
            }
            assert {f"{name}.weight" for name in names} <= {*part.state_dict()}, "all are matched"
        base, exported = builder.open(config.output), builder.open(tmp_path / "student")
        if not hasattr(base, "load_lora_weights"):
            for law in ("adapted", "keys", "lora"):
                figures.none(law, f"{type(base).__name__} has no load_lora_weights")
        if not hasattr(exported, "vae"):
            return  # pipelines of images have no adapters, and start from noise of their own
        if builder.output == "latent":
            assert error(builder.called(exported, 1, 1.0, "latent"), expected) < 1e-5
        if not hasattr(base, "load_lora_weights"):
            return
        base.scheduler = exported.scheduler
        figures("adapted", error(builder.called(base, 1, 1.0, "latent"), expected))
        add_adapters(base, student, tmp_path / "student")
        pairs = zip(backbones(base), files, strict=True)
        figures("keys", sum(unmatched(part, file) for part, file in pairs))
        figures("lora", error(builder.called(base, 1, 1.0, "latent"), expected))

    def test_without_adapters_nothing_is_merged_and_no_file_is_left(self, stock, teacher, tmp_path):
        student = new_student(teacher, NETWORK, 0, StudentConfig())
        assert merged(student) is student
        save_denoiser(student, tmp_path / "student", {})
        assert not (tmp_path / "student" / FILE).exists()


def add_adapters(pipe: Any, student: Network, folder: Path) -> None:
    """Load a student's adapters into its teacher's pipeline, by diffusers."""
    pipe.load_lora_weights(folder, adapter_name="ours")
    for name in list(lora_files(student))[1:]:
        pipe.load_lora_weights(
            folder, adapter_name="ours", weight_name=name, load_into_transformer_2=True
        )


def unmatched(part: nn.Module, file: Mapping[str, Tensor]) -> int:
    """Keys of a file that are no adapter "ours" of a network, and its adapters that are no key."""
    adapters = {name for name, _ in part.named_parameters() if ".lora_" in name}
    return len(
        {each.replace(".ours.", ".") for each in adapters} ^ {k.partition(".")[2] for k in file}
    )
