"""Images beside prompts become parts of their conditions, and stay under guidance."""

import numpy as np
import pytest
import torch

from pipeline.diffusion.condition import Condition
from pipeline.models.condition import read_prompts
from pipeline.models.image_prompts import ImagePrompts, check_images
from pipeline.utils.errors import UserError
from tests.fixtures.prompt_images import picture, write_prompts

PROMPTS = ["make it blue", "a hat", "make it blue"]
CPU = torch.device("cpu")


def pil_to_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def encode(text, images, device):
    """A token a letter; the encoder has seen the images, and the network gets them too."""
    pixels = torch.stack([pil_to_tensor(image).float() for image in images])
    tokens = torch.tensor([[[float(ord(letter)), pixels.mean()] for letter in f"<{text}>"]])
    mask = torch.ones(1, len(text) + 2)
    return Condition({"tokens": tokens, "mask": mask, "image_latents": pixels[None]})


@pytest.fixture
def file(tmp_path):
    rows = [(prompt, [picture(number), picture(9)]) for number, prompt in enumerate(PROMPTS)]
    return write_prompts(tmp_path / "all.prompts", rows)


def conditioner(file, seen=True, size=(32, 16)):
    return ImagePrompts(read_prompts(file and str(file)), "bad", encode, True, size, seen)


def test_every_row_has_its_own_images_in_the_networks_proportion(file):
    rows = conditioner(file)(torch.tensor([0, 1, 2, 0]), 4)
    images = rows["image_latents"]
    assert images.shape == (4, 2, 3, 32, 16)
    assert torch.equal(images[0], images[3]) and torch.equal(images[0, 1], images[1, 1])
    assert not torch.equal(images[0], images[2]), "the prompt alone does not tell them apart"
    middle = pil_to_tensor(picture(1).crop((16, 0, 32, 32)))
    assert torch.equal(images[1, 0], middle.float())


@pytest.mark.parametrize("seen", [True, False])
def test_guidance_leads_away_from_the_negative_prompt_beside_the_same_images(file, seen):
    made = conditioner(file, seen)
    rows = made(torch.tensor([0, 1]), 2)
    plain = rows.without_prompts(made.null(2))
    assert plain.tensors.keys() == {"tokens", "mask", "image_latents"}
    assert torch.equal(plain["image_latents"], rows["image_latents"])
    assert plain["tokens"].shape[1] == len("<bad>")
    assert torch.equal(plain["tokens"][0], plain["tokens"][1]) != seen
    both = Condition.cat([plain, rows])
    assert both["tokens"].shape == (4, len("<make it blue>"), 2)
    assert both["mask"].sum(1).tolist() == [5, 5, 14, 7]


def test_other_prompts_go_with_the_first_images_and_none_with_black(file):
    made = conditioner(file)
    assert made.label("a hat") == 1 and made.label("make it red") == 3
    images = made(torch.tensor([0, 3]), 2)["image_latents"]
    assert torch.equal(images[0], images[1])
    for each in (made, conditioner(None)):
        null = each.null(2)["image_latents"]
        assert len(null) == 2 and not null.any()


def test_images_that_are_gone_or_not_taken_are_one_line(file):
    prompts = read_prompts(str(file))
    for most in (2, 3):
        check_images(prompts, most, "APipeline")
    check_images([], 0, "APipeline")
    for most, told in ((0, "takes no images beside a prompt, not 2"), (1, "takes 1 image beside")):
        with pytest.raises(UserError, match=f"teacher.prompt_images: a APipeline {told}"):
            check_images(prompts, most, "APipeline")
    prompts.images(1)[0].unlink()
    with pytest.raises(UserError, match=rf"prompt_images: cannot read {prompts.images(1)[0]}"):
        conditioner(file)(torch.tensor([1]), 1)
