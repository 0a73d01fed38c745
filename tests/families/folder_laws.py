"""Folders: what is not named is not looked up, and every part is there and whole."""

import json
import re
import shutil
from pathlib import Path

import diffusers
import pytest
import torch
import transformers
from diffusers.pipelines.kolors import ChatGLMModel
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE

from pipeline.config import BucketConfig
from pipeline.data.hub import FETCHED
from pipeline.diffusion.buckets import Buckets
from pipeline.models.critic import Critic
from pipeline.models.denoiser import blank
from pipeline.models.family import FAMILIES
from pipeline.models.folder import part_class
from pipeline.models.loading import load_teacher, teacher_fingerprint
from pipeline.models.sampling import sample_teacher
from pipeline.models.weights import part_files
from pipeline.utils.errors import UserError
from tests.families.builder import shown
from tests.families.measures import UNREAD, networks, refused
from tests.fixtures.tiny_parts import save_sentencepiece, tiny_decoder

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3438167536\n"

BERT = transformers.BertModel(
    transformers.BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
)
VOCABULARIES = ("tokenizer.json", "tokenizer.model")


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


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
        for file in (f for f in Path("copy").rglob("*config.json") if f.name not in UNREAD):
            content = file.read_bytes()
            file.unlink()
            assert str(file) in refused(config)
            file.write_bytes(content)
        load_teacher(config)
        assert not looked_up

    def test_all_that_it_reads_is_fetched_from_the_hub(self, stock, config):
        folder = Path(config.output)
        parts = [each for each in folder.iterdir() if each.is_dir() and each.name != "scheduler"]
        read = {f"{part.name}/{file.name}" for part in parts for file in part_files(part)}
        assert read == {*filter_repo_objects(read, allow_patterns=list(FETCHED))}

    def test_weights_are_those_of_the_network_and_no_others(self, stock, copy):
        for file in networks(Path(copy.output)):
            part, whole = file.parent, file.read_bytes()
            weights = load_file(file)
            name = max(key for key, value in weights.items() if value.ndim > 1 and len(value) > 1)
            broken = {**weights, f"{name}.more": torch.ones(2)}
            del broken[name]
            save_file(broken, file, {"format": "pt"})
            problem = refused(copy)
            assert f"cannot load {part}: no weights for " in problem and name in problem
            assert f"{name}.more; its weights are not those of its config" in problem
            assert "does not take" in problem  # under the name that transformers has for it
            save_file({**weights, name: weights[name][:1].clone()}, file, {"format": "pt"})
            problem = refused(copy)
            assert f"cannot load {part}: of another shape are " in problem and name in problem
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

    def test_a_vocabulary_is_there_and_tells_prompts_apart(self, stock, builder, copy):
        index = json.loads((Path(copy.output) / "model_index.json").read_text())
        for part in sorted(Path(copy.output).glob("tokenizer*")):
            kind = part_class(part.parent, part.name, index[part.name])
            if not getattr(kind, "vocab_files_names", True):
                continue  # of bytes
            file = next(each for each in part.iterdir() if each.name in VOCABULARIES)
            content = file.read_bytes()
            file.unlink()
            assert f"{part} has no vocabulary (no {file.name}" in refused(copy)
            file.write_bytes(POINTER)
            assert f"{file} is a pointer of git-lfs" in refused(copy)
            file.write_bytes(content)
            told = part / "tokenizer_config.json"
            settings = told.read_text()
            if file.suffix == ".json":
                if plain := kind in (transformers.AutoTokenizer, transformers.TokenizersBackend):
                    kind = transformers.TokenizersBackend  # the file is all there is of it
                empty = {"tokenizer_object": Tokenizer(BPE())} if plain else {}
                kind(**empty).save_pretrained(part)
            else:
                save_sentencepiece(file, {"<unk>": 0.0, "▁": -1.0})
            assert f"{part}: its vocabulary of " in refused(copy)
            file.write_bytes(content)
            told.write_text(settings)
            template = part / "chat_template.jinja"
            if part.name == "tokenizer" and FAMILIES[builder.family].chats:
                content = template.read_bytes()
                template.unlink()
                assert f"{part} has no chat template" in refused(copy)
                template.write_bytes(content)
        load_teacher(copy)

    def test_text_encoders_of_other_models_are_named_with_both_numbers(self, stock, copy):
        """Of another width, of another vocabulary than the tokenizer's, of another kind."""
        index = Path(copy.output) / "model_index.json"
        known = json.loads(index.read_text())
        for part in sorted(index.parent.glob("text_encoder*")):
            kind = part_class(part.parent, part.name, known[part.name])
            files = contents(part)
            text = kind.config_class.from_pretrained(part).get_text_config()
            wide = {key: 2 * getattr(text, key, 0) for key in ("hidden_size", "projection_dim")}
            rows = "padded_vocab_size" if kind is ChatGLMModel else "vocab_size"
            words = getattr(text, rows)
            for other, told in (
                (wide, rf"is \d+, not .*({'|'.join(map(str, wide.values()))}) \({part.name}\."),
                ({rows: words - 1}, f"has {words} words, its {part.name} {words - 1}:"),
                ({rows: words + 512}, f"has {words} words, its {part.name} {words + 512}:"),
            ):
                config = kind.config_class.from_pretrained(part)
                for key, value in other.items():
                    setattr(config.get_text_config(), key, value)
                kind(config).save_pretrained(part)
                assert re.search(told, refused(copy))
            BERT.save_pretrained(part)
            index.write_text(json.dumps(known | {part.name: ["transformers", "BertModel"]}))
            told = f"has {words} words, its {part.name} 9:"
            if kind.__name__.startswith("CLIP"):
                told = f"its {part.name} is BertModel, not {kind.__name__}:"
            assert told in refused(copy)
            index.write_text(json.dumps(known))
            for name, content in files.items():
                (part / name).write_bytes(content)
        load_teacher(copy)

    def test_a_vae_of_another_class_is_named(self, stock, builder, copy):
        index = Path(copy.output) / "model_index.json"
        known = json.loads(index.read_text())
        if "vae" not in known:
            pytest.skip("it works on images")
        taken = FAMILIES[builder.family].vaes
        others = [name for name in dir(diffusers) if re.search("Autoencoder|VQModel|VAE", name)]
        assert known["vae"][1] in taken and len(others) > 10
        for name in sorted({*others} - {*taken}):
            index.write_text(json.dumps(known | {"vae": ["diffusers", name]}))
            assert f"its vae is {name}, not {' or '.join(taken)}: copy" in refused(copy)

    @torch.no_grad()
    def test_a_tiny_vae_makes_what_the_pipeline_makes_of_it(self, stock, builder, copy):
        """TAESD's latents have a scale of their own."""
        folder = Path(copy.output)
        index = json.loads((folder / "model_index.json").read_text())
        if "vae" not in index or "AutoencoderTiny" not in FAMILIES[builder.family].vaes:
            pytest.skip("its pipeline takes none")
        shutil.rmtree(folder / "vae")
        tiny_decoder(folder / "vae", scaling=0.7)
        index["vae"] = ["diffusers", "AutoencoderTiny"]
        (folder / "model_index.json").write_text(json.dumps(index))
        teacher, pipe = load_teacher(copy), builder.open(folder)
        labels, start = builder.labels_of(teacher), builder.start(pipe, teacher)
        latents = sample_teacher(teacher, start, labels, builder.solver, 4, 1.0)
        images = builder.called(pipe, 4, 1.0, "pt")
        torch.testing.assert_close(shown(teacher.decode(latents)), images, atol=1e-4, rtol=0)
        theirs = 0.7 * pipe.vae.encode(2 * images - 1).latents
        torch.testing.assert_close(teacher.latents.encode(2 * images - 1), theirs)

    @torch.no_grad()
    def test_images_may_be_larger_as_far_as_a_table_of_positions_goes(self, stock, builder, config):
        own = load_teacher(config)
        if own.latents is None:
            pytest.skip("it works on images")
        if not builder.sizes:
            with pytest.raises(UserError, match=r"teacher\.image_size: 32"):
                load_teacher(config.model_copy(update={"image_size": 32}))
            return
        for times in (2, 4):
            wanted = config.model_copy(update={"image_size": builder.larger(times)})
            size = times * own.size[-1]
            try:
                teacher = load_teacher(wanted)
            except UserError as error:
                told = rf"teacher\.image_size: {size} is more than (\d+), the largest of this model"
                largest = int(re.match(told, str(error))[1])
                assert own.size[-1] < largest < size
                teacher = load_teacher(config.model_copy(update={"image_size": largest}))
            inputs = blank(teacher, 1)
            assert teacher(*inputs).shape == inputs.x_t.shape
            assert inputs.x_t.shape[-1] * teacher.latents.factor == teacher.size[-1]

    @torch.no_grad()
    def test_of_several_sizes_it_is_at_each_the_teacher_of_that_size(self, stock, builder, config):
        if getattr(FAMILIES[builder.family], "images", 0):
            pytest.skip("images beside prompts have one size, which a rule of the settings says")
        own, other = load_teacher(config), (builder.sizes or [(32, 32)])[0]
        sizes = [getattr(own, "size", (8, 8)), other]
        buckets = tuple(BucketConfig(size=size, weight=2) for size in sizes)
        several = config.model_copy(update={"buckets": buckets, "image_size": None})
        if not builder.sizes:
            assert "teacher.buckets: " in refused(several)
            return
        both, alone = (
            load_teacher(several),
            load_teacher(config.model_copy(update={"image_size": other})),
        )
        assert both.buckets == Buckets((own.shape, alone.shape), (2, 2))
        critic, part = Critic(both), torch.tensor([0.0, 0.3, 1.0])
        for teacher in (own, alone):
            view, inputs = both.at(teacher.shape), blank(teacher, 2)
            inputs = inputs._replace(x_t=torch.randn(inputs.x_t.shape))
            assert (view.size, view.pixels) == (teacher.size, teacher.pixels)
            assert torch.equal(view.schedule.times(4), teacher.schedule.times(4))
            drawn = (each.schedule.time_from_fraction(part) for each in (view, teacher))
            assert torch.equal(*drawn)
            assert torch.equal(both(*inputs), teacher(*inputs)), "whichever it was loaded for"
            assert torch.equal(view(*inputs), teacher(*inputs))
            x0, logits = critic.denoise_and_logits(inputs)
            assert torch.equal(x0, teacher(*inputs)) and logits.isfinite().all()
            assert logits.shape == (2, 1), "one of each image"
            assert torch.equal(critic.logits(inputs), logits)
        wrong = (*buckets, BucketConfig(size=tuple(side + 1 for side in other)))
        assert "teacher.buckets: " in refused(several.model_copy(update={"buckets": wrong}))

    def test_the_first_of_several_sizes_stands_for_the_teacher(self, stock, builder, config):
        if not builder.sizes:
            pytest.skip("it has one size")
        first, second = (BucketConfig(size=size) for size in builder.sizes)
        print_ = {
            teacher_fingerprint(config.model_copy(update=change))
            for change in (
                {"image_size": first.size},
                {"buckets": (first, second), "image_size": None},
                {"buckets": (first, second), "image_size": second.size},
            )
        }
        assert len(print_) == 1
        other = config.model_copy(update={"buckets": (second, first), "image_size": None})
        assert teacher_fingerprint(other) not in print_
