"""What a family's conditions keep when they are made once and stored."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.config import S3Config, TeacherConfig
from pipeline.diffusion.condition import Condition
from pipeline.models.loading import load_teacher
from pipeline.runs.conditions import RunConditions
from tests.families.builder import PROMPTS
from tests.families.measures import guidable, size
from tests.fixtures.in_process import embed_prompts


def counted(condition: Condition) -> dict[str, list[Tensor]]:
    """The tensors of each row, tokens only where the mask counts them."""
    rows = {name: list(values) for name, values in condition.tensors.items()}
    if "mask" in rows:
        pairs = zip(rows["tokens"], rows["mask"], strict=True)
        rows["tokens"] = [tokens[mask.bool()] for tokens, mask in pairs]
    return rows


class ConditionLaws:
    """Of stored conditions."""

    @pytest.fixture(scope="class")
    @classmethod
    def offline(
        cls, config: TeacherConfig, teacher: Any, tmp_path_factory: pytest.TempPathFactory
    ) -> Any:
        """The teacher with exact stored conditions."""
        if teacher.prompts is None:
            pytest.skip("it takes no prompts")
        folder = str(tmp_path_factory.mktemp("conditions"))
        embed_prompts(folder, config, "fp32", shard_size=3)
        return load_teacher(config, RunConditions(folder, config, S3Config()).conditioner())

    @torch.no_grad()
    def test_a_stored_row_is_the_online_row(self, builder, teacher, offline):
        """Beside a row of another length, and the negative one; and x0 of each."""
        x_t, t = builder.noise(), torch.full((2,), teacher.schedule.start / 2)
        for labels in ((1, 0), (2, 1), (0, 2), None):
            if labels is None and not guidable(teacher):
                continue
            given = None if labels is None else torch.tensor(labels)
            one, other = (each.conditioner(given, 2) for each in (teacher, offline))
            assert list(one.tensors) == list(other.tensors)
            for name, rows in counted(one).items():
                assert one[name].dtype == other[name].dtype
                assert all(map(torch.equal, rows, counted(other)[name])), name
            assert torch.equal(teacher(x_t, t, one), offline(x_t, t, other))

    def test_with_stored_conditions_no_encoder_is_in_memory(self, offline):
        """No parameter of one, and no tokenizer; the VAE stays."""
        assert list(offline.prompts) == PROMPTS and offline.classes == len(PROMPTS)
        assert offline.frozen_parts == [offline.latents.vae]
        parts = offline.frozen.pipe.components
        names = [name for name in parts if name.startswith(("text_encoder", "tokenizer"))]
        assert names and all(parts[name] is None for name in names)
        modules = [each for each in parts.values() if isinstance(each, nn.Module)]
        assert size(*modules) == size(offline.latents.vae)
