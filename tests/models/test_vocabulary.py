"""A tokenizer without its vocabulary is refused, and one in the older files is the same."""

import json
from pathlib import Path

import pytest
import torch

from pipeline.config import TeacherConfig
from pipeline.models.loading import load_teacher
from pipeline.utils.errors import UserError
from tests.fixtures.tiny_models import save_tiny


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "model") / "tokenizer"


def tokens_of(tokenizer: Path) -> torch.Tensor:
    teacher = load_teacher(TeacherConfig(output=str(tokenizer.parent), negative_prompt="a cat"))
    return teacher.conditioner.null(1)["tokens"]


def test_words_and_merges_are_a_vocabulary_and_either_alone_is_none(tokenizer: Path) -> None:
    tokens, whole = tokens_of(tokenizer), tokenizer / "tokenizer.json"
    words, merges = tokenizer / "vocab.json", tokenizer / "merges.txt"
    words.write_text(json.dumps(json.loads(whole.read_text())["model"]["vocab"]))
    whole.unlink()
    told = "no vocabulary .no tokenizer.json nor merges.txt with vocab.json.: copy the tokenizer"
    with pytest.raises(UserError, match=f"{tokenizer} has {told}"):
        tokens_of(tokenizer)
    merges.write_text("#version: 0.2\n")
    assert torch.equal(tokens_of(tokenizer), tokens)
    words.unlink()
    with pytest.raises(UserError, match=f"{tokenizer} has {told}"):
        tokens_of(tokenizer)


def test_a_vocabulary_that_lacks_a_letter_is_refused(tokenizer: Path) -> None:
    file = tokenizer / "tokenizer.json"
    content = json.loads(file.read_text())
    vocab = content["model"]["vocab"]
    for word in ("x</w>", "y</w>"):
        vocab[f"[{word}]"] = vocab.pop(word)
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"{tokenizer}: its vocabulary of 54 words tells 25 of the"):
        tokens_of(tokenizer)
