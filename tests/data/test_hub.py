"""Laws of models on the Hub, on a small one in this process."""

import logging
import shutil
import time

import pytest

from pipeline.config import S3Config
from pipeline.data.fetch import fetch
from pipeline.data.hub import fetch_model, open_repo, parse, push_model
from pipeline.utils.errors import UserError
from tests.fixtures.hub import TOKEN, serve

NAME = "someone/model"
MARK = "provenance.json"
LARGE = (".safetensors", ".bin", ".ckpt", ".msgpack", ".pkl")
USED = {
    "README.md",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/chat_template.jinja",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors.index.json",
    "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
    "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
}
UNUSED = {
    ".gitattributes",
    "model.ckpt",
    "model.safetensors",
    "feature_extractor/preprocessor_config.json",
    "safety_checker/config.json",
    "safety_checker/model.safetensors",
    "text_encoder/flax_model.msgpack",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/pytorch_model.bin",
    "tokenizer/tokenizer.pkl",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
    "unet/modeling.py",
    "vae/diffusion_pytorch_model.fp16.safetensors",
}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serve(monkeypatch, tmp_path) as running:
        yield running


@pytest.fixture
def model(tmp_path):
    """A folder with all that such a model may have."""
    for name in USED | UNUSED:
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / name).write_text(f"content of {name}")
    return tmp_path / "model"


def test_what_is_used_is_fetched_once_and_nothing_else(hub, model):
    url = f"hf://{NAME}@{hub.add(NAME, model)}"
    copy = fetch(url, S3Config(), "teacher.output")
    there = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
    assert there == USED == hub.downloads()
    assert all((copy / name).read_text() == f"content of {name}" for name in USED)
    hub.asked.clear()
    assert fetch(url, S3Config(), "teacher.output") == copy
    assert not hub.asked, "a complete copy needs no Hub"


def test_a_lone_network_beside_its_index_is_fetched(hub, tmp_path):
    """The layout of google/ddpm-*."""
    used = {"model_index.json", "config.json", "scheduler_config.json"}
    used |= {"diffusion_pytorch_model.safetensors"}
    for name in used | {"diffusion_pytorch_model.bin", "samples.safetensors"}:
        (tmp_path / "flat").mkdir(exist_ok=True)
        (tmp_path / "flat" / name).write_text(name)
    fetch_model(f"hf://{NAME}@{hub.add(NAME, tmp_path / 'flat')}", "x")
    assert hub.downloads() == used


def test_a_commit_stays_what_it_was(hub, model):
    old = hub.add(NAME, model)
    (model / "vae/config.json").write_text("changed")
    new = hub.add(NAME, model)
    copies = [fetch_model(f"hf://{NAME}@{each}", "x") for each in (new, old)]
    contents = [(copy / "vae/config.json").read_text() for copy in copies]
    assert contents == ["changed", "content of vae/config.json"]


@pytest.mark.parametrize("revision", ["", "@main"])
def test_a_branch_is_refused_with_the_commit_it_stands_at(hub, model, revision):
    hub.add(NAME, model)
    now = hub.add(NAME, model)
    url = f"hf://{NAME}{revision}"
    with pytest.raises(UserError, match=rf"teacher.output: {url} is not pinned.*@{now}: write"):
        fetch_model(url, "teacher.output")
    assert not hub.downloads()


@pytest.mark.parametrize(
    "url", ["hf://model", "hf://a/b/c@1", "hf://a/b@", "hf:///b@1", "hf://a b/c@1", "hf://a/b@1@2"]
)
def test_what_is_no_address_is_told(url):
    with pytest.raises(UserError, match="x: .* is no model on the Hub; give hf://owner/name@com"):
        parse(url, "x")


def test_what_is_closed_or_missing_is_one_clear_line(hub, model, monkeypatch):
    url = f"hf://{NAME}@{hub.add(NAME, model)}"
    for closed, message in (
        ("gated", "teacher.output: someone/model is gated: ask for access.*HF_TOKEN"),
        ("private", "there is no someone/model on the Hub, or it is private.*HF_TOKEN"),
    ):
        hub.repos[NAME].closed = closed
        with pytest.raises(UserError, match=message) as error:
            fetch_model(url, "teacher.output")
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="there is no someone/other on the Hub"):
        fetch_model(f"hf://someone/other@{'1' * 40}", "teacher.output")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(UserError, match=f"{NAME} has no revision {'1' * 40}"):
        fetch_model(f"hf://{NAME}@{'1' * 40}", "teacher.output")
    with pytest.raises(UserError, match=f"{NAME} has no revision v1"):
        fetch_model(f"hf://{NAME}@v1", "teacher.output")
    assert (fetch_model(url, "teacher.output") / "unet").is_dir(), "private, with a token"


def test_a_token_goes_to_the_hub_alone(hub, model, monkeypatch, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    url = f"hf://{NAME}@{hub.add(NAME, model, 'gated')}"
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(UserError) as error:
        fetch_model(url, "teacher.output")
    assert any(TOKEN in each for each in hub.headers)
    output = capfd.readouterr()
    assert TOKEN not in str(error.value) + caplog.text + output.out + output.err


def test_a_hub_that_cannot_be_reached_is_one_clear_line(hub, model, monkeypatch):
    url = f"hf://{NAME}@{hub.add(NAME, model)}"
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between tries
    for each in (url, f"hf://{NAME}"):
        with pytest.raises(UserError, match=f"x: {NAME}: the Hub or its local copy cannot be"):
            fetch_model(each, "x")


def test_what_is_no_model_is_told(hub, model):
    for file in (model / "unet").glob("*[0-9].safetensors"):
        if "fp16" not in file.name:
            file.unlink()
    with pytest.raises(UserError, match="x: hf://.* has no weights in full precision"):
        fetch_model(f"hf://{NAME}@{hub.add(NAME, model)}", "x")
    (model / "model_index.json").unlink()
    with pytest.raises(UserError, match="x: hf://.* is no diffusers model"):
        fetch_model(f"hf://{NAME}@{hub.add(NAME, model)}", "x")


@pytest.mark.parametrize("private", [True, False])
def test_what_is_pushed_replaces_what_was_pushed(hub, model, tmp_path, monkeypatch, private):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (model / MARK).write_text("{}")
    open_repo(NAME, private, MARK, "export.push")
    assert hub.repos[NAME].visibility == ("private" if private else "public")
    first = push_model(model, NAME, "one", "export.push")
    shutil.rmtree(model / "safety_checker")
    (model / "README.md").write_text("another")
    open_repo(NAME, private, MARK, "export.push")
    second = push_model(model, NAME, "two", "export.push")
    assert first != second == f"hf://{NAME}@{hub.repos[NAME].head}"
    files = hub.repos[NAME].commits[hub.repos[NAME].head]
    assert files["README.md"] == b"another"
    put = [each for each in hub.asked if each.startswith("PUT /storage/")]
    large = {name for name in USED | UNUSED if name.endswith(LARGE)}
    assert len(put) == len(set(put)) == len(large), "large files apart, each content once"
    assert all(hub.stored[each.rpartition("/")[2]].startswith(b"content of ") for each in put)
    gone = {"safety_checker/config.json", "safety_checker/model.safetensors"}
    assert files.keys() == (USED | UNUSED | {MARK}) - gone
    assert (fetch_model(second, "x") / "README.md").read_text() == "another"
    assert (fetch_model(first, "x") / "README.md").read_text() == "content of README.md"


def test_what_cannot_be_pushed_is_told_before(hub, model, monkeypatch):
    with pytest.raises(UserError, match="export.push: no token to write to someone/model.*HF_TOK"):
        open_repo(NAME, True, MARK, "export.push")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match="the Hub answers 401 for someone/model: HF_TOKEN may not"):
        open_repo(NAME, True, MARK, "export.push")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(UserError, match="the Hub answers 403 for another/model: HF_TOKEN may not"):
        open_repo("another/model", True, MARK, "export.push")
    assert not hub.repos
    hub.add(NAME, model)
    with pytest.raises(UserError, match="someone/model is in use by something else"):
        open_repo(NAME, True, MARK, "export.push")
    hub.add("another/model", model)
    with pytest.raises(UserError, match="the Hub answers 403"):
        push_model(model, "another/model", "one", "export.push")
