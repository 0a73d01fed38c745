"""What a run will store, before it is there."""

from pathlib import Path

import pytest

from pipeline.cluster.costs import stored_conditions
from pipeline.cluster.doctor import Examination
from pipeline.cluster.node import Node
from pipeline.config import Config
from pipeline.models.loading import load_teacher
from pipeline.runs.conditions import RunConditions
from pipeline.utils.errors import UserError
from tests.families.builders import BUILDERS
from tests.fixtures.in_process import embed_prompts


@pytest.mark.parametrize("name", ["sd1", "z-image"])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_conditions_take_at_most_what_is_foreseen(tiny_model, prompts, tmp_path, name, precision):
    """Less by the shorter prompts alone; made ones take what their files do."""
    config = BUILDERS[name].teacher(tiny_model(BUILDERS[name]), prompts)
    teacher, online = load_teacher(config), Path(tmp_path / "conditions")
    found = RunConditions(str(online), config, Config().s3)
    foreseen = stored_conditions(found, teacher, precision)
    assert foreseen.most and not foreseen.made
    embed_prompts(str(online), config, precision)
    made = stored_conditions(found, teacher, precision)
    files = [file.stat().st_size for file in online.glob("*.parquet")]
    assert made.made and made.bytes == sum(files)
    frame = 4000 * len(files)  # of a file, beside its values
    assert foreseen.bytes / 2 < made.bytes < foreseen.bytes + frame


def test_the_doctor_wants_room_for_conditions_until_they_are_made(tiny_model, prompts, tmp_path):
    teacher = BUILDERS["sd1"].teacher(tiny_model(BUILDERS["sd1"]), prompts)
    tree = {"run": str(tmp_path), "data": {"name": None}, "teacher": teacher.model_dump()}
    config = Config.model_validate({**tree, "distill": {"conditions": "stored"}})
    folder = config.embed.output

    def disk(free: int) -> str:
        examination = Examination(config)
        examination.nodes = [Node("here", {}, {}, {folder: free})]
        return examination.check_disk()

    assert disk(10**6).endswith(" GiB needed, at most")
    with pytest.raises(UserError, match=f"{folder} needs .* free"):
        disk(1000)
    embed_prompts(folder, teacher)
    assert disk(0).endswith(" GiB needed")
    examination = Examination(config)
    assert examination.outputs[folder].bytes > 0, "it is paid for all the same"
