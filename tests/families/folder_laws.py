"""Folders: what is not named is not looked up, and every part is there and whole."""

import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

from pipeline.models.loading import load_teacher
from tests.families.measures import refused

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3438167536\n"


def networks(folder: Path) -> list[Path]:
    """The files with the weights of all parts."""
    return sorted(folder.rglob("*.safetensors"))


class FolderLaws:
    """Of what people have on disk."""

    def test_nothing_is_looked_up_and_a_part_that_is_gone_is_named(
        self, stock, copy, tmp_path, monkeypatch, looked_up
    ):
        """With a relative path, which could also be a name on the Hub."""
        monkeypatch.chdir(tmp_path)
        config = copy.model_copy(update={"output": "copy"})
        load_teacher(config)
        for part in sorted(each for each in Path("copy").iterdir() if each.is_dir()):
            part.rename("gone")
            assert str(part) in refused(config) and not looked_up
            Path("gone").rename(part)
        for file in Path("copy").rglob("*config.json"):
            content = file.read_bytes()
            file.unlink()
            assert str(file) in refused(config)
            file.write_bytes(content)
        load_teacher(config)
        assert not looked_up

    def test_weights_are_those_of_the_network_and_no_others(self, stock, copy):
        for file in networks(Path(copy.output)):
            part, whole = file.parent, file.read_bytes()
            weights = load_file(file)
            name = max(key for key, value in weights.items() if value.ndim > 1)
            broken = {**weights, f"{name}.more": torch.ones(2)}
            del broken[name]
            save_file(broken, file, {"format": "pt"})
            problem = refused(copy)
            assert f"cannot load {part}: no weights for " in problem and name in problem
            assert f"does not take {name}.more; its weights are not those of its config" in problem
            save_file({**weights, name: weights[name][:1].clone()}, file, {"format": "pt"})
            assert f"cannot load {part}: of another shape are {name}" in refused(copy)
            file.write_bytes(POINTER)
            assert f"{file} is a pointer of git-lfs" in refused(copy)
            file.write_bytes(whole)
        load_teacher(copy)

    def test_quantised_networks_and_adapters_beside_them_are_named(self, stock, copy):
        for part in {file.parent for file in networks(Path(copy.output))}:
            file, adapter = part / "config.json", part / "adapter_config.json"
            content = file.read_text()
            quantised = {"quantization_config": {"quant_method": "fp8"}}
            file.write_text(json.dumps(json.loads(content) | quantised))
            assert f"cannot load {part}: its config.json has a quantization_config" in refused(copy)
            file.write_text(content)
            adapter.write_text('{"base_model_name_or_path": "someone/else"}')
            assert f"cannot load {part}: an adapter lies beside" in refused(copy)
            adapter.unlink()

    def test_a_vocabulary_is_there_and_tells_prompts_apart(self, stock, copy):
        index = json.loads((Path(copy.output) / "model_index.json").read_text())
        for part in sorted(Path(copy.output).glob("tokenizer*")):
            file = part / "tokenizer.json"
            content = file.read_text()
            file.unlink()
            assert f"{part} has no vocabulary (no tokenizer.json" in refused(copy)
            file.write_bytes(POINTER)
            assert f"{file} is a pointer of git-lfs" in refused(copy)
            file.write_text(content)
            kind = getattr(transformers, index[part.name][1])
            kind().save_pretrained(part)
            assert f"{part}: its vocabulary of " in refused(copy)
            file.write_text(content)
        load_teacher(copy)
