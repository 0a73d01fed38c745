"""What settings of a teacher that learns from captions must agree in."""

from pipeline.config.networks import DataConfig, NetworkConfig, TeacherConfig
from pipeline.config.rules import Problems


def text_problems(data: DataConfig, teacher: TeacherConfig, network: NetworkConfig) -> Problems:
    """What a teacher that learns from captions needs of images, networks and workers."""
    training, text = teacher.training, teacher.training.text
    if training.kind == "classes":
        if data.name == "captions":
            yield (
                "data.name: captions teaches a model of text: set teacher.training.kind to text, "
                "or name a set of classes"
            )
        return
    if data.name != "captions":
        yield (
            f"teacher.training.kind: text learns from captions, and data.name is {data.name}; set "
            "it to captions and data.folder to the images"
        )
    coder = text.autoencoder
    if strange := [each for each in coder.channels if each % coder.norm_groups]:
        yield (
            f"teacher.training.text.autoencoder.channels: {strange[0]} is not a multiple of its "
            f"norm_groups ({coder.norm_groups})"
        )
    halved = 2 ** (len(coder.channels) + len(network.channels) - 2)
    if data.size % halved:
        yield (
            f"data.size: {data.size} is not a multiple of {halved}, as the levels of "
            "teacher.training.text.autoencoder.channels and network.channels need together"
        )
    for name, size in (
        ("batch_size", training.batch_size),
        ("text.autoencoder.batch_size", coder.batch_size),
    ):
        if size % text.workers:
            yield (
                f"teacher.training.{name}: {size} is not a multiple of "
                f"teacher.training.text.workers ({text.workers})"
            )
