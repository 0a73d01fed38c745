"""The detectors of failing runs, by name: a further one is a file with a line of its own here."""

from pipeline.training.detectors.critic_lag import CriticLag
from pipeline.training.detectors.detector import Detector
from pipeline.training.detectors.diversity import Diversity
from pipeline.training.detectors.gan_won import GANWon
from pipeline.training.detectors.gradients import Gradients
from pipeline.training.detectors.grid_pattern import GridPattern
from pipeline.training.detectors.input_noise import InputNoise
from pipeline.training.detectors.modes import Modes
from pipeline.training.detectors.saturation import Saturation
from pipeline.training.detectors.static_frames import StaticFrames

DETECTORS: dict[str, type[Detector]] = {
    "saturation": Saturation,
    "diversity": Diversity,
    "modes": Modes,
    "grid pattern": GridPattern,
    "static frames": StaticFrames,
    "input noise": InputNoise,
    "critic lag": CriticLag,
    "GAN won": GANWon,
    "gradients": Gradients,
}
"""`DETECTORS["mine"] = Mine` elsewhere, in a module that is named in `plugins`, adds one."""
