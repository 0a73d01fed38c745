"""EDM's two networks in float64, straight from the names in a file: the yardstick of the import.

Nothing here is shared with the product. Architectures: Karras et al., 2022, arXiv 2206.00364,
App. F, after Dhariwal and Nichol, 2021 (ADM) and Song et al., 2021 (DDPM++).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


def denoised(weights: Weights, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
    """EDM's D(x; sigma), Table 1 with sigma_data 0.5; x (B, 3, H, W), sigma (B,), labels (B,)."""
    s = sigma.view(-1, 1, 1, 1)
    total = s**2 + 0.25
    inner = raw(weights, x / total.sqrt(), sigma.log() / 4, labels)
    return 0.25 / total * x + s * 0.5 / total.sqrt() * inner


def raw(weights: Weights, x: Tensor, c_noise: Tensor, labels: Tensor | None) -> Tensor:
    """The network's own output; the weights' names begin with "model."."""
    w = {name.removeprefix("model."): value.double() for name, value in weights.items()}
    adm = "out_conv.weight" in w
    emb = embedding(w, c_noise, labels, adm)
    steps = list(dict.fromkeys(".".join(name.split(".")[:2]) for name in w if name[3] == "."))
    x = F.conv2d(x, w[f"{steps[0]}.weight"], w[f"{steps[0]}.bias"], padding=1)
    skips = [x]
    for step in steps[1:]:
        if "aux" in step:
            continue
        if step.startswith("dec.") and "block" in step:
            x = torch.cat((x, skips.pop()), dim=1)
        x = block(w, step, x, emb, adm)
        if step.startswith("enc."):
            skips.append(x)
    assert not skips
    if adm:
        return conv(w, "out_conv", F.silu(norm(w, "out_norm", x, 1e-5)))
    (end,) = (step.removesuffix("_norm") for step in steps if step.endswith("aux_norm"))
    return conv(w, f"{end}_conv", F.silu(norm(w, f"{end}_norm", x, 1e-6)))


def embedding(w: Weights, c_noise: Tensor, labels: Tensor | None, adm: bool) -> Tensor:
    half = w["map_layer0.weight"].shape[1] // 2
    place = torch.arange(half, dtype=torch.float64) / (half if adm else half - 1)
    angles = c_noise[:, None] * 10000.0**-place
    waves = (angles.cos(), angles.sin()) if adm else (angles.sin(), angles.cos())
    emb = torch.cat(waves, dim=1)
    one_hot = None
    if "map_label.weight" in w:
        assert labels is not None
        one_hot = torch.zeros(len(labels), w["map_label.weight"].shape[1], dtype=torch.float64)
        one_hot[range(len(labels)), labels] = 1
    if one_hot is not None and not adm:
        emb = emb + dense(w, "map_label", one_hot * math.sqrt(one_hot.shape[1]))
    emb = dense(w, "map_layer1", F.silu(dense(w, "map_layer0", emb)))
    if one_hot is not None and adm:
        emb = emb + one_hot @ w["map_label.weight"].T
    return F.silu(emb)


def block(w: Weights, at: str, x: Tensor, emb: Tensor, adm: bool) -> Tensor:
    eps, scale = (1e-5, 1.0) if adm else (1e-6, math.sqrt(0.5))

    def resampled(image: Tensor) -> Tensor:
        if at.endswith("_up"):
            return image.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        if at.endswith("_down"):
            b, c, height, width = image.shape
            return image.view(b, c, height // 2, 2, width // 2, 2).mean(dim=(3, 5))
        return image

    y = conv(w, f"{at}.conv0", resampled(F.silu(norm(w, f"{at}.norm0", x, eps))))
    heard = dense(w, f"{at}.affine", emb)[:, :, None, None]
    if adm:
        times, plus = heard.split(heard.shape[1] // 2, dim=1)
        y = F.silu(norm(w, f"{at}.norm1", y, eps) * (1 + times) + plus)
    else:
        y = F.silu(norm(w, f"{at}.norm1", y + heard, eps))
    y = conv(w, f"{at}.conv1", y)
    x = resampled(x)
    if f"{at}.skip.weight" in w:
        x = conv(w, f"{at}.skip", x)
    x = (x + y) * scale
    if f"{at}.qkv.weight" in w:
        x = (x + attention(w, at, norm(w, f"{at}.norm2", x, eps), adm)) * scale
    return x


def attention(w: Weights, at: str, x: Tensor, adm: bool) -> Tensor:
    b, channels, height, width = x.shape
    size = 64 if adm else channels
    packed = conv(w, f"{at}.qkv", x).view(b, channels // size, size, 3, height * width)
    q, k, v = packed[..., 0, :], packed[..., 1, :], packed[..., 2, :]
    odds = (q.transpose(2, 3) @ k / math.sqrt(size)).softmax(dim=-1)
    return conv(w, f"{at}.proj", (v @ odds.transpose(2, 3)).reshape(x.shape))


def norm(w: Weights, at: str, x: Tensor, eps: float) -> Tensor:
    scale, shift = w[f"{at}.weight"], w[f"{at}.bias"]
    grouped = x.view(len(x), min(32, len(scale) // 4), -1)
    centred = grouped - grouped.mean(dim=2, keepdim=True)
    unit = centred / (centred.square().mean(dim=2, keepdim=True) + eps).sqrt()
    return unit.view_as(x) * scale[:, None, None] + shift[:, None, None]


def conv(w: Weights, at: str, x: Tensor) -> Tensor:
    kernel = w[f"{at}.weight"]
    return F.conv2d(x, kernel, w[f"{at}.bias"], padding=kernel.shape[-1] // 2)


def dense(w: Weights, at: str, x: Tensor) -> Tensor:
    return x @ w[f"{at}.weight"].T + w[f"{at}.bias"]
