"""The tree holds together, and bad settings end in one clear line."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.config import Config
from pipeline.config.settings_yaml import read
from pipeline.config.terms import BUILT_IN
from pipeline.diffusion.adversarial import DIVERGENCES
from pipeline.diffusion.matching import MATCHING
from pipeline.diffusion.solver import SOLVERS
from pipeline.methods.terms import TERMS

EXAMPLES = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def test_round_trip_through_plain_dict() -> None:
    config = Config.model_validate({"seed": 3, "pairs": {"output": "s3://bucket/pairs"}})
    assert config.pairs.output == "s3://bucket/pairs"
    assert Config.model_validate(config.model_dump(mode="json")) == config


def test_of_the_outputs_those_of_pairs_distill_and_export_can_be_on_s3() -> None:
    config = Config.model_validate({"distill": {"output": "s3://bucket/run"}})
    assert config.evaluate.student == "s3://bucket/run/student"
    with pytest.raises(
        ValidationError, match="evaluate.output: 's3://bucket/run'.*distill and export"
    ):
        Config(run="s3://bucket/run")


def test_frozen() -> None:
    with pytest.raises(ValidationError):
        Config().pairs.count = 1  # type: ignore[misc]


def test_folders_stand_under_run_unless_given() -> None:
    config = Config.model_validate(
        {"run": "runs/x/", "pairs": {"output": None}, "distill": {"output": "/elsewhere"}}
    )
    run = os.path.abspath("runs/x")  # workers start in folders of their own
    assert config.teacher.output == f"{run}/teacher"
    assert config.pairs.output == f"{run}/pairs"
    assert config.distill.output == "/elsewhere"
    assert config.evaluate.student == "/elsewhere/student"
    assert config.evaluate.output == run


@pytest.mark.parametrize(
    ("branch", "there", "export"),
    [
        *((each, "/one", "/one") for each in ("icons", "teacher", "pairs", "evaluate", "sample")),
        *((each, "s3://one/two", "s3://one/two/") for each in ("encode", "embed", "distill")),
    ],
)
def test_an_export_does_not_go_into_the_folder_of_another_branch(
    branch: str, there: str, export: str
) -> None:
    tree = {branch: {"output": there}, "export": {"output": export}}
    with pytest.raises(ValidationError, match=rf"export.output: \S+ is {branch}.output too; "):
        Config.model_validate(tree)
    Config.model_validate(tree | {"export": {"output": f"{there}-exported"}})


def test_an_export_does_not_replace_the_runs_student() -> None:
    tree = {"distill": {"output": "/one"}, "export": {"output": "/one/student"}}
    with pytest.raises(ValidationError, match="export.output: /one/student is the run's student"):
        Config.model_validate(tree)
    Config.model_validate(tree | {"export": {"output": "/one/export"}})


def test_numbers_are_strict_but_floats_take_whole_ones() -> None:
    assert Config.model_validate({"distill": {"clip": 3}}).distill.clip == 3.0
    for wrong in ("abc", "5", 1.5, True):
        with pytest.raises(ValidationError):
            Config.model_validate({"seed": wrong})


def test_a_batch_of_pairs_need_fit_the_lanes_only_where_there_are_pairs() -> None:
    none = {"regression_steps": 0, "regression": {"weight": 0, "batch_size": 127}}
    Config.model_validate({"distill": none})
    for some in ({"gan": {"real": "pairs"}}, {"regression_steps": 5}):
        with pytest.raises(ValidationError, match=r"regression.batch_size: 127 is not a multiple"):
            Config.model_validate({"distill": none | some})


@pytest.mark.parametrize("gpus", [0.5, -1, 2])
def test_a_worker_that_trains_has_a_gpu_of_its_own(gpus: float) -> None:
    one = {"gpus": gpus}
    for tree in ({"distill": {"workers": one}}, {"teacher": {"training": {"text": one}}}):
        with pytest.raises(ValidationError, match="must be 0 or 1"):
            Config.model_validate(tree)


def test_shape_is_that_of_the_teacher() -> None:
    assert Config().shape == (1, 8, 8)
    gaussian = {"kind": "gaussian", "gaussian": {"shape": [3, 4, 6]}}
    assert Config.model_validate({"teacher": gaussian}).shape == (3, 4, 6)


@pytest.mark.parametrize(
    ("room", "table", "tree"),
    [
        ("solver", SOLVERS, {"pairs": {"solver": "?"}}),
        ("matching", MATCHING, {"distill": {"matching": {"loss": "?"}}}),
        ("adversarial", DIVERGENCES, {"distill": {"gan": {"divergence": "?"}}}),
    ],
)
def test_names_are_those_of_a_table_that_need_not_be_imported(
    room: str, table: Mapping[str, object], tree: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, f"pipeline.diffusion.{room}")
    with pytest.raises(ValidationError, match=f"must be one of {', '.join(table)} "):
        Config.model_validate(tree)


def test_terms_with_a_branch_of_their_own_come_first() -> None:
    assert tuple(TERMS)[: len(BUILT_IN)] == BUILT_IN


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_is_valid(path: Path) -> None:
    Config.model_validate(read(str(path)))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {"pairs": {"count": 5100}},
            "pairs.count: 5100 is not a multiple of pairs.shard_size (500); use 5000 or 5500",
        ),
        (
            {"pairs": {"count": 100}},
            "pairs.count: 100 is not a multiple of pairs.shard_size (500); use 500",
        ),
        (
            {"distill": {"augmentation": {"weight": 1.0}}},
            "distill.augmentation.weight: 1 of what guidance adds, and that is nothing at "
            "pairs.guidance 1; raise pairs.guidance, or set the weight to 0",
        ),
        (
            {"distill": {"critic": {"ida": 0.97, "lora": {"rank": 4}}}},
            "distill.critic.ida: 0.97 mixes weights, and adapters (distill.critic.lora.rank) are "
            "factors of them; set it to 1",
        ),
        (
            {"pairs": {"guidance_until": 0.5}},
            "pairs.guidance_until: 0.5 needs guidance; set pairs.guidance, or take it out",
        ),
        (
            {"data": {"name": None}, "teacher": {"kind": "gaussian"}}
            | {"pairs": {"precision": "bf16"}},
            "pairs.precision: bf16 needs a network, and teacher.kind gaussian is none; use fp32",
        ),
        (
            {"pairs": {"actors": {"min": 3}}},
            "pairs.actors.min: 3 is more than pairs.actors.max (2)",
        ),
        (
            {"distill": {"steps": 1100}},
            "distill.regression_steps + distill.burn_in_steps: 1200 is more than "
            "distill.steps (1100)",
        ),
        (
            {"distill": {"batch_size": 127}},
            "distill.batch_size: 127 is not a multiple of distill.lanes (2)",
        ),
        (
            {"distill": {"regression": {"batch_size": 127}}},
            "distill.regression.batch_size: 127 is not a multiple of distill.lanes (2)",
        ),
        (
            {"distill": {"workers": {"min": 3}}},
            "distill.workers.min: 3 is more than distill.workers.max (2)",
        ),
        (
            {"distill": {"workers": {"max": 3}}},
            "distill.workers.max: 3 is more than distill.lanes (2)",
        ),
        (
            {"distill": {"pick": "best"}},
            "distill.pick: best needs scores; set distill.scoring.count to 2000, say",
        ),
        (
            {"distill": {"regression": {"decoder": "/taesd"}}},
            "distill.regression.decoder: /taesd needs distill.regression.distance lpips",
        ),
        (
            {"distill": {"shard_teacher": True}},
            "distill.shard_teacher: true needs distill.sharded true",
        ),
        (
            {"distill": {"compile": "blocks", "sharded": True}},
            "distill.compile: blocks does not go with distill.sharded; use none",
        ),
        (
            {"distill": {"matching": {"weight": 0}, "regression": {"weight": 0}}},
            "distill.steps: 3000, but after step 1200 no loss teaches the student; give "
            "distill.matching.weight, distill.regression.weight or distill.gan a weight above 0",
        ),
        (
            {"distill": {"steps": 203, "regression_steps": 0, "student": {"every": 4}}},
            "distill.steps: 203, and in none of them the student learns: the critic has 200 alone, "
            "and of the 3 after them each 4th is the student's (distill.student.every); give more",
        ),
        (
            {"teacher": {"output": "/model"}, "evaluate": {"student": "/model"}},
            "evaluate.student: /model is the teacher (teacher.output); name a folder that "
            "jobs/distill.py or jobs/export.py saved",
        ),
        (
            {"distill": {"attention": "flash"}},
            "distill.attention: flash needs distill.precision bf16; or use native",
        ),
        (
            {"pairs": {"attention": "_flash_3"}},
            "pairs.attention: _flash_3 needs pairs.precision bf16; or use native",
        ),
        (
            {"data": {"name": None}, "distill": {"gan": {"real": "data"}}},
            "distill.gan.real: data needs data.name, and a teacher that learnt from it; use "
            "encoded (jobs/encode.py) or pairs",
        ),
        (
            {"distill": {"gan": {"real": "data", "divergence": "js"}}},
            "distill.gan.divergence: js weighs the matching loss by the logits of the same draws; "
            "it needs distill.gan.real, distill.draws shared, and distill.matching.weight above 0",
        ),
        (
            {
                "distill": {
                    **{"gan": {"real": "data", "divergence": "js"}, "draws": "shared"},
                    **{"batch_size": 4, "lanes": 4, "regression": {"batch_size": 4}},
                }
            },
            "distill.gan.divergence: js weighs the samples of a microbatch against each other, and "
            "distill.lanes (4) leaves one in each; use fewer lanes",
        ),
        (
            {"distill": {"gan": {"divergence": "kl"}, "draws": "shared"}},
            "distill.gan.divergence: kl weighs the matching loss by the logits of the same draws; "
            "it needs distill.gan.real, distill.draws shared, and distill.matching.weight above 0",
        ),
        (
            {
                "distill": {
                    **{"gan": {"real": "data", "divergence": "js"}, "draws": "shared"},
                    "matching": {"weight": 0.0},
                }
            },
            "distill.gan.divergence: js weighs the matching loss by the logits of the same draws; "
            "it needs distill.gan.real, distill.draws shared, and distill.matching.weight above 0",
        ),
        (
            {
                "distill": {
                    **{"gan": {"real": "data", "heads": "mean"}, "draws": "shared"},
                    **{"batch_size": 4, "lanes": 4, "regression": {"batch_size": 4}},
                }
            },
            "distill.gan.heads: mean scales the loss by a mean over a microbatch, and "
            "distill.lanes (4) leaves one sample in each; use fewer lanes",
        ),
        (
            {"distill": {"regression": {"batch_size": 256}, "draws": "shared"}},
            "distill.regression.batch_size: 256 is more than distill.batch_size (128), of which "
            "it is a part with distill.draws shared",
        ),
        (
            {"distill": {"student": {"times": [80, 3]}, "draws": "shared"}},
            "distill.draws: shared needs a student of one step where there is a regression; "
            "use separate, or set distill.regression.weight to 0",
        ),
        (
            {"distill": {"optimizer": "adamw8bit", "sharded": True}},
            "distill.optimizer: adamw8bit cannot be split over workers; "
            "use adamw with distill.sharded",
        ),
        (
            {"distill": {"quantize": "int8", "student": {"lora": {"rank": 4}}}},
            "distill.quantize: int8 is of frozen weights, and the critic trains all of its own; "
            "set distill.critic.lora.rank",
        ),
        (
            {
                "distill": {
                    **{name: {"lora": {"rank": 4}} for name in ("student", "critic")},
                    **{"quantize": "nf4", "sharded": True},
                }
            },
            "distill.quantize: nf4 cannot be split over workers; set distill.sharded to false",
        ),
        (
            {"network": {"attention": [True]}},
            "network.attention: 1 values for the 2 levels of network.channels; give one per level",
        ),
        (
            {"network": {"channels": [32, 60]}},
            "network.channels: 60 is not a multiple of network.norm_groups (8)",
        ),
        (
            {"data": {"size": 9}},
            "data.size: 9 is not a multiple of 2, as the 2 levels of network.channels need",
        ),
        (
            {"teacher": {"kind": "gaussian", "gaussian": {"shape": [1, 8, 7]}}},
            "teacher.gaussian.shape: 7 is not a multiple of 2, "
            "as the 2 levels of network.channels need",
        ),
        (
            {"evaluate": {"clip": "/one", "scores": {"clip": "/other"}}},
            "evaluate.clip: /one, but evaluate.scores has other weights for clip (/other)",
        ),
        ({"distill": {"scoring": {"count": 1}}}, "distill.scoring.count: 1 is no set of images"),
        (
            {"teacher": {"kind": "gaussian", "file": "/edm.pkl"}},
            "teacher.file: /edm.pkl needs teacher.kind diffusers; a gaussian reads none",
        ),
    ],
)
def test_settings_must_agree(tree: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Config.model_validate(tree)
    (error,) = caught.value.errors()
    assert error["msg"].startswith(f"Value error, {message}")
