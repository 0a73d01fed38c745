"""A VAE works whole where it can, and in tiles where images are large."""

import pytest
import torch
from diffusers import AutoencoderTiny

from pipeline.models.vae import VAE, FrameVAE, ScaleShift
from tests.fixtures.tiny_parts import dc, frame_vae, tiny_decoder, vae


@torch.no_grad()
@pytest.mark.parametrize(
    "make", [lambda: VAE(vae(4, 0.5)), lambda: VAE(dc(4, 0.5)), lambda: FrameVAE(frame_vae())]
)
def test_large_images_go_through_the_vae_in_tiles(make, monkeypatch):
    latents = make()
    small = {"sample": 16, "latent": 8}
    for name in vars(latents.vae):
        if name.startswith("tile_") and (kind := name.split("_")[1]) in small:
            setattr(latents.vae, name, small[kind] // (1 + ("stride" in name)))
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    whole = latents.encode(images)
    shown = latents.decode(whole)
    monkeypatch.setattr("pipeline.models.vae.TILED", 31)
    tiled = latents.decode(whole)
    assert tiled.shape == shown.shape and not torch.equal(tiled, shown)
    assert not torch.equal(latents.encode(images), whole)
    monkeypatch.undo()
    assert torch.equal(latents.decode(whole), shown)


@torch.no_grad()
def test_a_tiny_vae_takes_large_images_whole(monkeypatch, tmp_path):
    """Its tiles know latents of 4 channels and 8 pixels alone."""
    latents = VAE(AutoencoderTiny.from_pretrained(tiny_decoder(tmp_path, channels=16)))
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    whole = latents.encode(images)
    monkeypatch.setattr("pipeline.models.vae.TILED", 31)
    assert torch.equal(latents.encode(images), whole) and whole.shape == (1, 16, 16, 16)
    assert latents.decode(whole).shape == images.shape


@torch.no_grad()
def test_a_frames_latents_have_the_mean_and_deviation_of_each_channel():
    network = frame_vae()
    latents = FrameVAE(network)
    images = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    raw = network.encode(images[:, :, None]).latent_dist.mode()[:, :, 0]
    mean, spread = (
        torch.tensor(each).view(-1, 1, 1)
        for each in (network.config.latents_mean, network.config.latents_std)
    )
    found = latents.encode(images)
    assert found.shape == (2, latents.channels, 8 // latents.factor, 12 // latents.factor)
    torch.testing.assert_close(found, (raw - mean) / spread)
    shown = network.decode(raw[:, :, None]).sample[:, :, 0]
    torch.testing.assert_close(latents.decode(found), shown, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("scale", "shift"), [(0.36, 0.12), ((0.1, 0.2, 0.3, 4.0), (1.0, -2.0, 0.5, 0.0))]
)
def test_latents_are_normalised_and_back(scale, shift):
    """By one scale and shift, or by those of each channel."""
    raw = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    normaliser = ScaleShift(scale, shift)
    unit = normaliser.normalise(raw)
    for channel in range(4):
        by, less = (x[channel] if isinstance(x, tuple) else x for x in (scale, shift))
        torch.testing.assert_close(unit[:, channel], by * (raw[:, channel] - less))
    torch.testing.assert_close(normaliser.restore(unit), raw)
