"""Images judged by their captions, on squares of known colours and places."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.config import EvaluateConfig, S3Config
from pipeline.data.fetch import fetch_inputs
from pipeline.evaluation.captions import caption_figures, open_judged
from pipeline.evaluation.figures_png import save_captions
from pipeline.evaluation.judge import judged, train_judge
from pipeline.evaluation.reconstruction import mean_psnr, pca_psnr
from pipeline.evaluation.summary import caption_summary
from pipeline.models.loading import load_teacher
from pipeline.stages.icons import make_icons
from pipeline.stages.teacher import make_teacher
from pipeline.utils.errors import UserError
from tests.fixtures.icons import configured

BOTH, GUIDED = {"student", "teacher"}, ("teacher at 2", "teacher at 9")
JUDGED = {"names": ["name"], "attributes": ["background", "size"]}


def squares(count: int) -> tuple[Tensor, dict[str, Tensor]]:
    """A square on the left or right, of one of three colours."""
    rng = torch.Generator().manual_seed(0)
    side, colour = (torch.randint(n, (count,), generator=rng) for n in (2, 3))
    images = torch.full((count, 3, 16, 16), -1.0)
    for number in range(count):
        left = 2 + 7 * int(side[number])
        images[number, colour[number], 5:10, left : left + 5] = 1
    return images, {"side": side, "colour": colour}


def test_a_judge_tells_what_is_shown_and_the_same_one_each_time():
    images, answers = squares(200)
    judge = train_judge(images, answers)
    others, right = squares(80)
    found = judged(judge, others[40:])
    for name, expected in right.items():
        assert (found[name] == expected[40:]).float().mean() > 0.97
    again = train_judge(images, answers)
    assert all(
        torch.equal(one, two)
        for one, two in zip(judge.parameters(), again.parameters(), strict=True)
    )


def test_psnr_is_that_of_the_definition_and_a_linear_map_keeps_what_is_linear():
    images = torch.zeros(4, 3, 8, 8)
    assert mean_psnr(images + 0.2, images) == pytest.approx(20.0)
    rng = torch.Generator().manual_seed(0)
    patterns = torch.randn(2, 3 * 4 * 4, generator=rng)
    mixed = torch.randn(64, 2, generator=rng) @ patterns / 20
    flat = mixed.view(16, 4, 3, 4, 4)  # four patches an image
    rows = [
        torch.cat([a, b], dim=3) for a, b in ((flat[:, 0], flat[:, 1]), (flat[:, 2], flat[:, 3]))
    ]
    whole = torch.cat(rows, dim=2)
    assert pca_psnr(whole, whole, 4, 2) > 60 > 40 > pca_psnr(whole, whole, 4, 1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    config = configured(
        tmp_path_factory.mktemp("captions") / "run",
        evaluate={"judged": JUDGED, "count": 20, "batch_size": 20, "guidances": [2.0, 9.0]},
        pairs={"solver": "euler", "steps": 2, "count": 4, "shard_size": 4, "guidance": 2.0},
    )
    make_icons(config)
    make_teacher(config)
    return fetch_inputs(config, "teacher")


def test_all_figures_are_there_real_ones_high_and_those_of_noise_low(trained, tmp_path):
    parts = open_judged(trained.evaluate, trained.data.folder, 16, S3Config())
    assert parts["seen"].answers.keys() == {"name", "background", "size"}
    teacher = load_teacher(trained.teacher)
    found = caption_figures(
        parts,
        {"student": teacher, "teacher": teacher},
        trained.pairs,
        trained.evaluate,
        seed=0,
    )
    for part in ("seen", "held_out"):
        for figure in JUDGED:
            sides = found.main[f"{figure}_{part}"]
            assert sides.keys() == {*BOTH, "real", "reconstruction", *GUIDED}
            assert sides["teacher at 2"] == sides["teacher"]
            assert sides["real"] > 0.7, "judged after few steps"
        assert found.main[f"names_{part}"]["student"] < 0.65, "it has learnt for six steps"
        record = found.records[part]["name"]["real"]
        assert record["low"] <= record["value"] <= record["high"]
        assert found.main[f"names_{part}"]["real"] == pytest.approx(record["value"])
        differ, intervals = found.main[f"diversity_{part}"], found.diversity[part]
        assert differ == {who: intervals[who]["value"] for who in BOTH} and intervals["n"] > 9
        assert differ.keys() == BOTH and min(differ.values()) > 0
    guided, usual, further = (found.shown[who] for who in (GUIDED[0], "teacher", GUIDED[1]))
    assert torch.equal(guided, usual) and not torch.equal(further, usual)
    assert found.main["vae_psnr_held_out"] < found.main["pca_psnr_held_out"]
    lines = caption_summary(found.main).splitlines()
    assert "teacher at 9" in lines[0] and any("diversity held out" in each for each in lines)
    save_captions(found, tmp_path / "captions.png")
    assert (tmp_path / "captions.png").stat().st_size > 1000
    save_captions(None, tmp_path / "captions.png")
    assert not (tmp_path / "captions.png").exists()


def test_what_cannot_be_judged_is_one_line(trained, tmp_path):
    def opened(**more: Any) -> Any:
        tree = trained.evaluate.model_dump() | more
        return open_judged(EvaluateConfig.model_validate(tree), trained.data.folder, 16, S3Config())

    with pytest.raises(UserError, match=r"data\.folder.*weight"):
        opened(judged={"names": ["weight"]})
    with pytest.raises(UserError, match=r"evaluate\.held_out"):
        opened(held_out=str(tmp_path))
    with pytest.raises(ValueError, match=r"evaluate\.judged"):
        configured(tmp_path / "x", data={"name": "digits"}, teacher={}, evaluate={"judged": JUDGED})
    with pytest.raises(ValueError, match=r"evaluate\.guidances: \[4\.0\] needs evaluate\.judged"):
        configured(tmp_path / "x", evaluate={"judged": {}, "guidances": [4.0]})
