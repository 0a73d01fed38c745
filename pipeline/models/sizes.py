"""Which sizes of images and videos a model on latents takes, and what its latents are then."""

from math import prod
from typing import Any, ClassVar

from pipeline.models.folder import one_side
from pipeline.models.vae import VAE
from pipeline.utils.errors import UserError

Wanted = int | tuple[int, ...] | None
"""As `teacher.image_size`."""
_SETTING = "teacher.image_size"


class ImageSizes:
    """Of images: (height, width), in pixels.

    Attributes:
        axes: What its pipeline's call names the numbers of a size.
        patch: Latents to an input of the backbone, in height and in width.
    """

    axes: ClassVar[tuple[str, ...]] = ("height", "width")
    patch: ClassVar[int] = 1

    @staticmethod
    def channels(backbone: Any) -> int:
        """Of a latent."""
        return int(backbone.config.in_channels)

    @classmethod
    def own_side(cls, backbone: Any) -> int:
        """Height and width of the latents that the backbone was trained on."""
        side = one_side(backbone.config.sample_size)
        assert side is not None, "refused as the folder's problem"
        return side

    @classmethod
    def own_size(cls, backbone: Any, vae: VAE) -> tuple[int, ...]:
        """What it was trained on, in pixels."""
        side = cls.own_side(backbone) * vae.factor
        return side, side

    @classmethod
    def table(cls, backbone: Any) -> int | None:
        """Patches a side of its table of positions; None: it has none, or one that stretches."""
        return None

    @classmethod
    def unit(cls, backbone: Any) -> int:
        """Latents to a token, in height and in width."""
        return cls.patch * int(getattr(backbone.config, "patch_size", None) or 1)

    @classmethod
    def size_for(
        cls, backbone: Any, vae: VAE, wanted: Wanted, setting: str = _SETTING
    ) -> tuple[int, ...]:
        """The size that is wanted, or else the model's own; `setting` says by which setting.

        Raises:
            UserError: If it is one of videos, its patches do not fit into it, or its table of
                positions is too small.
        """
        if wanted is None:
            size = cls.own_size(backbone, vae)
        else:
            size = (wanted, wanted) if isinstance(wanted, int) else wanted
        if len(size) != len(cls.axes):
            raise UserError(
                f"{setting}: {list(size)} is of videos, and this model makes images: give "
                "[height, width]"
            )
        cls.check_sides(backbone, vae, size, setting)
        return size

    @classmethod
    def check_sides(
        cls, backbone: Any, vae: VAE, sides: tuple[int, ...], setting: str = _SETTING
    ) -> None:
        """Raises UserError if a model's patches or table do not fit a height and a width."""
        unit, table = vae.factor * cls.unit(backbone), cls.table(backbone)
        for side in sides:
            if side % unit:
                raise UserError(
                    f"{setting}: {side} is no multiple of {unit}, a patch of this model"
                )
            if table is not None and side > table * unit:
                raise UserError(
                    f"{setting}: {side} is more than {table * unit}, the largest of this "
                    f"model: its table of positions has {table} patches a side"
                )

    @classmethod
    def shape_for(cls, backbone: Any, vae: VAE, size: tuple[int, ...]) -> tuple[int, ...]:
        """Latents (C, h, w) of an image of so many pixels."""
        return cls.channels(backbone), *(side // vae.factor for side in size)

    @classmethod
    def tokens(cls, backbone: Any, shape: tuple[int, ...]) -> int:
        """Of latents of a shape."""
        return prod(shape[1:]) // cls.unit(backbone) ** 2


class VideoSizes(ImageSizes):
    """Of videos: (frames, height, width), frames one more than a multiple of the VAE's.

    Attributes:
        own: The size that its pipeline makes where it is told none.
    """

    axes = ("num_frames", "height", "width")
    own: ClassVar[tuple[int, int, int]]

    @classmethod
    def own_size(cls, backbone: Any, vae: VAE) -> tuple[int, ...]:
        return cls.own

    @classmethod
    def unit(cls, backbone: Any) -> int:
        patch = backbone.config.patch_size
        return int(patch if isinstance(patch, int) else patch[-1])

    @classmethod
    def size_for(
        cls, backbone: Any, vae: VAE, wanted: Wanted, setting: str = _SETTING
    ) -> tuple[int, ...]:
        size = cls.own_size(backbone, vae) if wanted is None else wanted
        if isinstance(size, int) or len(size) != len(cls.axes):
            raise UserError(
                f"{setting}: {size if isinstance(size, int) else list(size)} is of "
                "images, and this model makes videos: give [frames, height, width]"
            )
        cls.check_sides(backbone, vae, size[1:], setting)
        if over := (size[0] - 1) % vae.frames:
            below = size[0] - over
            raise UserError(
                f"{setting}: {size[0]} frames are not {vae.frames} k + 1, as this model's "
                f"VAE makes them: {below} or {below + vae.frames} are"
            )
        return size

    @classmethod
    def shape_for(cls, backbone: Any, vae: VAE, size: tuple[int, ...]) -> tuple[int, ...]:
        """Latents (C, f, h, w) of a video."""
        frames, *sides = size
        latent = (frames - 1) // vae.frames + 1
        return cls.channels(backbone), latent, *(side // vae.factor for side in sides)
