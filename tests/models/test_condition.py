"""Prompts are encoded once, where they are used."""

import json
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from pipeline.config import TeacherConfig
from pipeline.diffusion.condition import Condition
from pipeline.models import condition
from pipeline.models.loading import load_teacher
from tests.families.builder import PROMPTS
from tests.fixtures.tiny_models import save_tiny


def test_prompts_are_read_where_they_stand(tmp_path):
    """Also through a pickle, as to another process."""
    texts = ["a cat", "", "zwei\nZeilen\u2028", "\N{CAT FACE}", "a cat"]
    (tmp_path / "all.prompts").write_text("\n".join(map(json.dumps, texts)))
    (tmp_path / "none.prompts").write_text("")
    found = condition.read_prompts(str(tmp_path / "all.prompts"))
    for each in (found, pickle.loads(pickle.dumps(found))):
        assert list(each) == texts and len(each) == 5
        assert (each[-1], each[1:3], each.index("")) == ("a cat", texts[1:3], 1)
        with pytest.raises(IndexError):
            each[5]
    assert list(condition.read_prompts(str(tmp_path / "none.prompts"))) == []
    assert list(condition.read_prompts(None)) == []


def test_prompts_are_encoded_once_and_the_oldest_leave(tmp_path, monkeypatch):
    file = tmp_path / "all.prompts"
    file.write_text("".join(f"{json.dumps(prompt)}\n" for prompt in PROMPTS))
    monkeypatch.setattr(condition.Prompts, "kept", 2)
    settings = TeacherConfig(output=str(save_tiny(tmp_path / "model")), prompts=str(file))
    side, encoded = load_teacher(settings).conditioner, []
    real = side.encode
    monkeypatch.setattr(side, "encode", lambda t, *rest: (encoded.append(t), real(t, *rest))[1])
    first = side(torch.tensor([0, 1, 0]), 3)["tokens"]
    assert torch.equal(first[0], first[2]) and not torch.equal(first[0], first[1])
    again = side(torch.tensor([1, 0, 1]), 3)["tokens"]
    assert torch.equal(again, first[[1, 0, 1]])
    side(torch.tensor([2]), 1)
    side(torch.tensor([0]), 1)
    assert encoded == [[PROMPTS[label]] for label in (0, 1, 2, 0)]


def test_a_prompts_embedding_does_not_depend_on_those_beside_it():
    """Of an encoder that pads prompts to the longest of them."""

    def encode(texts, negative, device):
        length = max(map(len, texts))
        mask = torch.tensor([[place < len(text) for place in range(length)] for text in texts])
        return Condition({"tokens": mask[:, :, None].float(), "mask": mask})

    first, second = (condition.Prompts(["a", "abc"], "", encode) for _ in range(2))
    assert first(torch.tensor([0, 1]), 2)["mask"].tolist() == [[True, False, False], [True] * 3]
    assert first(torch.tensor([0]), 1)["mask"].shape == second(torch.tensor([0]), 1)["mask"].shape


def test_rows_of_other_lengths_are_padded_where_a_mask_says_so():
    short, long = (
        Condition(
            {
                "tokens": torch.ones(count, length, 3),
                "mask": torch.ones(count, length, dtype=torch.bool),
                "pooled": torch.ones(count, 2),
            }
        )
        for count, length in ((2, 4), (1, 7))
    )
    both = Condition.cat([short, long])
    assert both["tokens"].shape == (3, 7, 3) and both["pooled"].shape == (3, 2)
    assert both["mask"].sum(1).tolist() == [4, 4, 7]
    assert torch.equal(both["tokens"].sum((1, 2)), torch.tensor([12.0, 12.0, 21.0]))
    assert torch.equal(Condition.cat([long, long])["mask"], torch.ones(2, 7, dtype=torch.bool))


def test_threads_encode_one_prompt_at_a_time_and_lose_none(monkeypatch):
    """Training asks for the negative prompt while the next step's prompts are encoded."""
    inside, most = [], []

    def encode(texts, negative, device):
        inside.append(texts)
        most.append(len(inside))
        time.sleep(1e-4)
        inside.pop()
        return Condition({"tokens": torch.full((1, 1, 1), float(len(texts[0])))})

    monkeypatch.setattr(condition.Prompts, "kept", 1)
    side = condition.Prompts(["a", "ab", "abc"], "", encode)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: side(torch.tensor([n % 3]), 1)["tokens"], range(300)))
    assert [int(each) for each in found] == [n % 3 + 1 for n in range(300)]
    assert max(most) == 1
