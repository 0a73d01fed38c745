"""New parts of a text-to-image model: tokens as CLIP's, layout as Stable Diffusion's."""

import torch

from pipeline.config import AutoencoderConfig, NetworkConfig, TextConfig
from pipeline.data.icons.drawing import LOOKS, caption
from pipeline.data.icons.names import CLEAR
from pipeline.data.icons.package import STYLES
from pipeline.models.from_scratch import parts, tokenizer
from pipeline.models.from_scratch.tasks import Autoencoding, TextDenoising

CAPTIONS = [caption(name, style, LOOKS[-1]) for name in CLEAR[:20] for style in STYLES]
CAPTIONS += ["ein Fluß, größer", "雪", "it's 3 o'clock!"]


def test_captions_are_cut_as_by_clips_own_tokenizer():
    cut, whole = tokenizer.cut_tokenizer(CAPTIONS), tokenizer.whole_tokenizer()
    assert len(cut) < 1000 and len(whole) == 49_408, "as many as CLIP's"
    for text in CAPTIONS:
        assert cut.tokenize(text) == whole.tokenize(text)
    lengths = [len(ids) for ids in cut(CAPTIONS)["input_ids"]]
    assert cut.model_max_length == max(lengths)


def test_a_word_that_was_not_seen_is_spelled():
    cut = tokenizer.cut_tokenizer(["a red apple"])
    assert "".join(cut.tokenize("zebra")).replace("</w>", "") == "zebra"
    assert len(cut.tokenize("zebra")) > len(cut.tokenize("a red apple")) == 3
    tokens = tokenizer.tokens_of(["", "a red apple"], cut)
    assert tokens.shape == (2, 5) and not torch.equal(tokens[0], tokens[1])


def test_equal_seeds_make_equal_parts_and_others_do_not():
    coder = AutoencoderConfig(channels=(8, 8), norm_groups=4)
    one, same, other = (parts.new_autoencoder(coder, 16, seed) for seed in (0, 0, 1))
    weights = [dict(each.named_parameters()) for each in (one, same, other)]
    assert all(torch.equal(w, weights[1][name]) for name, w in weights[0].items())
    assert any(not torch.equal(w, weights[2][name]) for name, w in weights[0].items())


def test_every_part_learns():
    cut, text = tokenizer.cut_tokenizer(CAPTIONS), TextConfig(width=16, layers=1, heads=2)
    network = NetworkConfig(channels=(8, 16), attention=(False, True), norm_groups=4)
    vae = Autoencoding(parts.new_autoencoder(AutoencoderConfig(), 16, 0))
    vae(torch.rand(2, 3, 16, 16), torch.randn(2, 8, 4, 4)).backward()
    task = TextDenoising(
        parts.new_text_unet(network, text, (4, 8, 8), 0), parts.new_text_encoder(text, cut, 0)
    )
    latents, tokens = torch.randn(2, 2, 4, 8, 8), tokenizer.tokens_of(CAPTIONS[:2], cut)
    task(latents[0], latents[1], torch.tensor([10, 900]), tokens).backward()
    for each in (vae, task):
        assert all(w.grad is not None for w in each.parameters())


def test_where_all_is_noise_v_is_minus_the_image():
    """x_t is then nearly the noise, and v = alpha eps - sigma x0 nearly -x0."""
    x0, eps = torch.randn(2, 2, 4, 8, 8)
    last = torch.tensor([999, 999])
    v = parts.new_scheduler().get_velocity(x0, eps, last)
    assert (v + x0).norm() / x0.norm() < 0.1
