"""The terms of the method, by name: a further one is a file with a line of its own (`TERMS`)."""

from typing import Any

from pipeline.methods.terms.augmentation import Augmentation
from pipeline.methods.terms.denoising import Denoising
from pipeline.methods.terms.diversity import Diversity
from pipeline.methods.terms.gan import GAN
from pipeline.methods.terms.isg import ISG
from pipeline.methods.terms.matching import Matching
from pipeline.methods.terms.regression import Regression
from pipeline.methods.terms.reward import Reward
from pipeline.methods.terms.term import Term

TERMS: dict[str, type[Term[Any]]] = {
    "regression": Regression,
    "matching": Matching,
    "critic": Denoising,
    "gan": GAN,
    "augmentation": Augmentation,
    "reward": Reward,
    "diversity": Diversity,
    "isg": ISG,
}
"""`TERMS["mine"] = Mine` elsewhere makes a term known; its settings are `distill.terms.mine`."""
