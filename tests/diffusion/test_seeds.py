"""Keyed random numbers: their bits, their distribution, and what they depend on."""

import hashlib

import numpy as np
import pytest
import torch
from scipy import stats

from pipeline.diffusion import seeds
from pipeline.diffusion.seeds import generator, inverse_normal, noise, philox, slerp

ALL = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "bits"),
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((ALL,) * 4, (ALL,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter, key, bits):
    words = philox([torch.tensor([word]) for word in counter], key)
    assert " ".join(f"{word.item():08x}" for word in words) == bits


def test_the_inverse_normal_is_that_of_scipy():
    words = torch.cat(
        [torch.arange(2000), torch.arange(0, 2**32, 65521), 2**32 - 1 - torch.arange(2000)]
    )
    u = (words.double() + 0.5) * 2.0**-32
    np.testing.assert_allclose(inverse_normal(u), stats.norm.ppf(u), rtol=1e-14)


def test_the_logarithm_is_that_of_libm():
    x = torch.logspace(-33, 0, 100_001, base=2, dtype=torch.float64)
    np.testing.assert_allclose(seeds._log(x), np.log(x.numpy()), rtol=4e-16, atol=4e-16)


def test_the_bits_of_noise_never_change():
    ids = torch.tensor([0, 1, 2**31, 2**32, 2**62])
    bits = b"".join(
        noise(seed, ids, (3, 7, 5), stream).numpy().tobytes()
        for seed in (0, 1, 2**64 - 1)
        for stream in (seeds.PAIRS, seeds.EVALUATION, seeds.FLOOR)
    )
    assert (
        hashlib.sha256(bits).hexdigest()
        == "e44e6acb95256c73f525e486e14e788be05cdf64b48a876a288a8a7adc679b57"
    )


def test_noise_is_the_same_in_any_batch_order_and_chunk(monkeypatch):
    ids = torch.arange(1000, 1100)
    whole = noise(7, ids, (2, 5, 3))
    assert torch.equal(torch.cat([noise(7, part, (2, 5, 3)) for part in ids.split(17)]), whole)
    assert torch.equal(noise(7, ids.flip(0), (2, 5, 3)), whole.flip(0))
    monkeypatch.setitem(seeds._CHUNK, "cpu", 100)
    assert torch.equal(noise(7, ids, (2, 5, 3)), whole)


def test_noise_differs_by_seed_id_and_stream():
    one = torch.tensor([5])
    others = [
        noise(0, one, (64,)),
        noise(1, one, (64,)),
        noise(2**32, one, (64,)),
        noise(0, one + 1, (64,)),
        noise(0, one + 2**32, (64,)),
        noise(0, one, (64,), seeds.EVALUATION),
    ]
    assert len({sample.numpy().tobytes() for sample in others}) == len(others)
    correlation = torch.corrcoef(torch.cat(others)).fill_diagonal_(0)
    assert correlation.abs().max() < 0.5


def test_noise_is_standard_normal():
    sample = noise(0, torch.arange(1000), (1, 32, 32)).double()
    flat = sample.flatten()
    assert flat.mean().abs() < 5e-3 and (flat.std() - 1).abs() < 4e-3
    assert stats.skew(flat).item() == pytest.approx(0, abs=0.015)
    assert stats.kurtosis(flat).item() == pytest.approx(0, abs=0.03)
    assert stats.kstest(flat.numpy(), "norm").pvalue > 0.01
    assert (sample[:, 0, 0, :-1] * sample[:, 0, 0, 1:]).mean().abs() < 0.03


def test_noise_takes_any_shape_and_refuses_bad_keys():
    assert noise(0, torch.arange(3), ()).shape == (3,)
    assert noise(0, torch.arange(0), (2, 2)).shape == (0, 2, 2)
    assert noise(0, torch.arange(3), (1, 8, 8)).dtype == torch.float32
    with pytest.raises(ValueError, match="seed -1"):
        noise(-1, torch.arange(3), (4,))
    with pytest.raises(ValueError, match="stream"):
        noise(0, torch.arange(3), (4,), stream=2**32)
    with pytest.raises(ValueError, match="int64"):
        noise(0, torch.arange(3).int(), (4,))


def test_a_generator_is_its_key():
    def draw(*key: int | str) -> list[float]:
        return torch.randn(4, generator=generator(*key)).tolist()

    assert draw(0, "matching", 3, 1) == draw(0, "matching", 3, 1)
    keys = [(0, "matching", 3, 1), (0, "matching", 31), (0, "critic", 3, 1), (1, "matching", 3, 1)]
    keys += [(0, "matching", "3", 1), (0, "matching", 1, 3)]
    assert len({tuple(draw(*key)) for key in keys}) == len(keys)
    assert generator(0, "matching", 3, 1).initial_seed() == 0x58A6B8E386B0B0C0
    with pytest.raises(TypeError):
        generator(0, np.int64(3))


def test_the_way_between_two_noises_keeps_to_their_sphere():
    first, second = torch.randn(2, 1, 3, 16, 16)
    way = slerp(first, second, torch.linspace(0, 1, 5))
    torch.testing.assert_close(way[[0, -1]], torch.cat([first, second]))
    radius = way.flatten(1).norm(dim=1)
    ends = radius[[0, -1]]
    assert radius.min() > 0.99 * ends.min() and radius.max() < 1.01 * ends.max()
    straight = ((first + second) / 2).norm()
    assert straight < 0.8 * radius[2]
    same = slerp(first, first, torch.tensor([0.3]))
    torch.testing.assert_close(same, first)
