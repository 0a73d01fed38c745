r"""Random numbers keyed by what they are for, never by who draws them or when.

`noise` is a counter-based generator: the numbers of a sample depend on the seed, the stream and
the sample's id alone. It uses integer arithmetic and the correctly rounded IEEE operations
+ - * / sqrt of float64, one operation per kernel, so the bits are the same on every machine,
device, thread count and batch split.
"""

import hashlib
import json
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

PAIRS, EVALUATION, FLOOR, SCORE, PROBE, RENEWED = 0, 1, 2, 3, 4, 2**16
"""Streams of `noise`: of the ODE pairs, of evaluation, of the teacher against itself, and of the
scores of checkpoints, so that the best one is not chosen by the noise it is evaluated on; of the
probes of training; the first one of the noises of `renewed`."""

_LOW = 2**32 - 1
_CHUNK = {"cpu": 2**14}
"""Philox blocks worked on at once: few enough for a CPU's cache; 2^20 on any other device."""


def philox(counter: Sequence[Tensor], key: tuple[int, int]) -> list[Tensor]:
    """Philox4x32-10: 128 random bits for each counter.

    Args:
        counter: Four words in [0, 2^32), (N,) int64 each.
        key: Two words in [0, 2^32).

    Returns:
        Four random words in [0, 2^32), (N,) int64 each.

    Source: Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3", Section 3.3.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0, product2 = c0 * 0xD2511F53, c2 * 0xCD9E8D57  # unsigned bits: int64 wraps round
        c0, c1 = ((product2 >> 32) ^ c1 ^ k0) & _LOW, product2 & _LOW
        c2, c3 = ((product0 >> 32) ^ c3 ^ k1) & _LOW, product0 & _LOW
        k0, k1 = (k0 + 0x9E3779B9) & _LOW, (k1 + 0xBB67AE85) & _LOW
    return [c0, c1, c2, c3]


_CENTRE = (
    (2.50908092873012267e3, 3.34305755835881281e4, 6.72657709270087009e4, 4.59219539315498715e4,
     1.37316937655094611e4, 1.97159095030655144e3, 1.33141667891784377e2, 3.38713287279636661e0),
    (5.22649527885285456e3, 2.87290857357219427e4, 3.93078958000927106e4, 2.12137943015865959e4,
     5.39419602142475111e3, 6.87187007492057908e2, 4.23133307016009113e1, 1.0),
)  # fmt: skip
_TAIL = (
    (7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1,
     1.27045825245236838258e0, 3.64784832476320460504e0, 5.76949722146069140550e0,
     4.63033784615654529590e0, 1.42343711074968357734e0),
    (1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2,
     1.48103976427480074590e-1, 6.89767334985100004550e-1, 1.67638483018380384940e0,
     2.05319162663775882187e0, 1.0),
)  # fmt: skip
_LN2, _SQRT_HALF = 0.6931471805599453, 0.7071067811865476
_LOG = tuple(2 / (2 * k + 1) for k in reversed(range(12)))


def _polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """Horner's rule, highest power first; every operation rounds, none is fused."""
    value = x * coefficients[0] + coefficients[1]
    for coefficient in coefficients[2:]:
        value.mul_(x).add_(coefficient)
    return value


def _ratio(coefficients: tuple[Sequence[float], Sequence[float]], x: Tensor) -> Tensor:
    return _polynomial(coefficients[0], x) / _polynomial(coefficients[1], x)


def _log(x: Tensor) -> Tensor:
    """Natural logarithm of positive float64: log 2^e + 2 atanh((m - 1) / (m + 1))."""
    mantissa, exponent = torch.frexp(x)
    small = mantissa < _SQRT_HALF
    mantissa = torch.where(small, mantissa + mantissa, mantissa)
    exponent = (exponent - small.to(exponent.dtype)).to(x.dtype)
    z = (mantissa - 1) / (mantissa + 1)
    return exponent * _LN2 + z * _polynomial(_LOG, z * z)


def inverse_normal(u: Tensor) -> Tensor:
    """Quantile of the standard normal distribution.

    Args:
        u: Probabilities, (N,) float64, multiples of 2^-33 strictly between 0 and 1 (nearer to the
            ends the approximation would need one more piece).

    Returns:
        The quantiles, (N,) float64, to a relative error of about 1e-15.

    Source: Wichura, 1988, Algorithm AS 241, PPND16.
    """
    q = u - 0.5
    x = q * _ratio(_CENTRE, 0.180625 - q * q)
    far = (q.abs() > 0.425).nonzero().squeeze(1)
    q = q.index_select(0, far)
    r = torch.sqrt(-_log(0.5 - q.abs()))
    return x.index_copy_(0, far, torch.sign(q) * _ratio(_TAIL, r - 1.6))


def noise(seed: int, ids: Tensor, shape: tuple[int, ...], stream: int = PAIRS) -> Tensor:
    """Unit-variance Gaussian noise of the samples with these ids.

    Args:
        seed: The run's seed, in [0, 2^64).
        ids: Sample ids, (B,) int64.
        shape: Shape of one sample.
        stream: What the noise is for, in [0, 2^32): a stream of this module.

    Returns:
        (B, *shape) float32 on the device of the ids.

    Raises:
        ValueError: If seed, stream or ids are out of range or of another type.
    """
    if not (0 <= seed < 2**64 and 0 <= stream < 2**32):
        raise ValueError(f"seed {seed} must lie in [0, 2^64) and stream {stream} in [0, 2^32)")
    if ids.ndim != 1 or ids.dtype != torch.int64:
        raise ValueError(f"ids must be (B,) int64, got {tuple(ids.shape)} {ids.dtype}")
    numbers = prod(shape)
    blocks = -(-numbers // 4)
    total = len(ids) * blocks
    out = torch.empty(total, 4, dtype=torch.float32, device=ids.device)
    chunk = _CHUNK.get(ids.device.type, 2**20)
    for start in range(0, total, chunk):
        place = torch.arange(start, min(start + chunk, total), device=ids.device)
        sample = ids[place // blocks]
        words = (place % blocks, sample & _LOW, (sample >> 32) & _LOW)
        counter = (*words, torch.full_like(place, stream))
        bits = torch.stack(philox(counter, (seed & _LOW, seed >> 32)), dim=1)
        uniform = (bits.view(-1).double() + 0.5) * 2.0**-32
        out[start : start + chunk].view(-1).copy_(inverse_normal(uniform))
    return out.view(len(ids), blocks * 4)[:, :numbers].reshape(len(ids), *shape)


def renewed(first: Tensor, number: int) -> Tensor:
    """Fresh noise for a later step of the same samples, a function of their first noise.

    Args:
        first: Unit-variance noise, (B, ...), of any floating type.
        number: Of the renewal, in [0, 2^16).

    Returns:
        Noise of the same shape and type.
    """
    bits = first.flatten(1)[:, :2].float().contiguous().view(torch.int32).long()
    ids = (bits[:, 0] << 32) ^ (bits[:, -1] & _LOW)
    return noise(0, ids, tuple(first.shape[1:]), RENEWED + number).to(first.dtype)


def generator(*key: int | str, device: str | torch.device = "cpu") -> torch.Generator:
    """A generator seeded by a hash of its key, such as (seed, "distill", step, microbatch).

    Its numbers depend on the key and the kind of device (of the seed's 64 bits torch's CPU
    generator keeps 32): for draws that are never stored or compared across machines.

    Raises:
        TypeError: If the key holds anything but integers and strings.
    """
    digest = hashlib.blake2b(json.dumps(key).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little"))


def slerp(first: Tensor, second: Tensor, part: Tensor) -> Tensor:
    """Spherical interpolation: between two noises, noises of about the same length.

    Args:
        first, second: Noise, (1, C, H, W).
        part: The way from the first, 0, to the second, 1; (B,).

    Returns:
        (B, C, H, W), dtype of `first`.

    Source: Shoemake, 1985, "Animating rotation with quaternion curves", Section 3.3.
    """
    one, two = (x.double().flatten() for x in (first, second))
    angle = torch.acos((one @ two / (one.norm() * two.norm())).clamp(-1, 1))
    part = part.double()
    if angle.sin() < 1e-6:  # the same noise
        weights = torch.stack([1 - part, part], 1)
    else:
        weights = torch.stack([((1 - part) * angle).sin(), (part * angle).sin()], 1) / angle.sin()
    return (weights @ torch.stack([one, two])).view(-1, *first.shape[1:]).to(first.dtype)
