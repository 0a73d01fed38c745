"""A tokenizer without its vocabulary is refused, and one in the older files is the same."""

import json
from pathlib import Path

import pytest
import torch

from pipeline.config import TeacherConfig
from pipeline.models.loading import load_teacher
from pipeline.utils.errors import UserError
from tests.fixtures.tiny_models import save_tiny
from tests.fixtures.tiny_parts import save_sentencepiece


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


@pytest.mark.parametrize("length", [13, None])
def test_prompts_that_are_longer_than_the_encoder_reads_are_refused(
    tokenizer: Path, length: int | None
) -> None:
    file = tokenizer / "tokenizer_config.json"
    settings = {**json.loads(file.read_text()), "model_max_length": length}
    file.write_text(json.dumps({key: value for key, value in settings.items() if value}))
    told = rf"its tokenizer makes prompts of {length or '10+'}\d* words, its text_encoder reads 12:"
    with pytest.raises(UserError, match=told):
        tokens_of(tokenizer)


def test_a_vocabulary_as_sentencepiece_has_it_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = save_tiny(tmp_path / "model", "pixart-alpha") / "tokenizer"
    tokens, whole = tokens_of(tokenizer), tokenizer / "tokenizer.json"
    pieces = dict(json.loads(whole.read_text())["model"]["vocab"])
    own = {piece: score for piece, score in pieces.items() if not piece.startswith("<extra_id_")}
    save_sentencepiece(tokenizer / "spiece.model", own)
    whole.unlink()
    assert torch.equal(tokens_of(tokenizer), tokens)
    monkeypatch.setattr(
        "pipeline.models.folder.find_spec", lambda name: None if name == "sentencepiece" else name
    )
    with pytest.raises(UserError, match=f"{tokenizer} needs the package sentencepiece .*pip inst"):
        tokens_of(tokenizer)
