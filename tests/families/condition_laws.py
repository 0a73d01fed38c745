"""What a family's conditions keep when they are made once and stored."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from pipeline.config import S3Config, TeacherConfig
from pipeline.diffusion.condition import Condition
from pipeline.models.encoders import load_prompts
from pipeline.models.loading import load_teacher
from pipeline.runs.conditions import RunConditions
from tests.families.builder import PROMPTS
from tests.families.measures import guidable, size
from tests.fixtures.in_process import embed_prompts

SHORT, LONG = 'a "b"', 'two dogs on a hill beside a wall that says "stop here" and a tall tree'
"""Words in quotes have an encoder of their own in some families."""


def counted(condition: Condition) -> dict[str, list[Tensor]]:
    """The tensors of each row, tokens only where the mask counts them."""
    rows = {name: list(values) for name, values in condition.tensors.items()}
    for mask in (name for name in rows if name.startswith("mask")):
        tokens = mask.replace("mask", "tokens")
        pairs = zip(rows[tokens], rows[mask], strict=True)
        rows[tokens] = [values[counts.bool()] for values, counts in pairs]
    return rows


def stored_bytes(folder: Path, ids: range) -> dict[str, list[int]]:
    """Of each tensor of some rows."""
    files = sorted(folder.glob("*.parquet"))
    table = pa.concat_tables([pq.read_table(file) for file in files])
    names = {*table.column_names} - {"sample_id", "shapes"}
    return {name: [len(table[name][id].as_py()) for id in ids] for name in names}


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

    def test_no_padding_is_stored(self, config, teacher, tmp_path):
        """Tokens of a short prompt take fewer bytes than of a long one, unless the teacher sees it.

        Only what images come to, and what the negative prompt does beside them, is as long for all.
        """
        if teacher.prompts is None:
            pytest.skip("it takes no prompts")
        given = Path(config.prompts)
        line = json.loads(given.read_text().splitlines()[0])
        beside = [] if isinstance(line, str) else line[1:]
        file = given.with_name("lengths.prompts")
        lines = [[prompt, *beside] if beside else prompt for prompt in (SHORT, LONG)]
        file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        config = config.model_copy(update={"prompts": str(file)})
        embed_prompts(str(tmp_path), config, "fp32")
        sizes, online = stored_bytes(tmp_path, range(2)), load_prompts(config)
        rows = [online.row(number, torch.device("cpu")) for number in range(2)]
        for name in (name for name, value in rows[0].tensors.items() if value.dim() > 2):
            if name.startswith("image") or name.endswith("_null"):
                continue
            assert name.startswith("tokens"), "no other name has a mask"
            if type(teacher).reads_padding:
                assert sizes[name] == [4 * row[name].numel() for row in rows], name
                continue
            assert sizes[name][0] < sizes[name][1], name
            if name.replace("tokens", "mask") in rows[0].tensors:
                assert sizes[name] == [4 * counted(row)[name][0].numel() for row in rows], name

    def test_with_stored_conditions_no_encoder_is_in_memory(self, offline):
        """No parameter of one, and no tokenizer; the VAE stays."""
        assert list(offline.prompts) == PROMPTS and offline.classes == len(PROMPTS)
        assert offline.frozen_parts == [offline.latents.vae]
        parts = offline.frozen.pipe.components
        names = [name for name in parts if name.startswith(("text_encoder", "tokenizer"))]
        assert names and all(parts[name] is None for name in names)
        modules = [each for each in parts.values() if isinstance(each, nn.Module)]
        assert size(*modules) == size(offline.latents.vae)
