"""The terms of the method, by name: a further one is a file, and a line here or of its own."""

from typing import Any

from pipeline.methods.terms.denoising import Denoising
from pipeline.methods.terms.gan import GAN
from pipeline.methods.terms.matching import Matching
from pipeline.methods.terms.regression import Regression
from pipeline.methods.terms.term import Term

TERMS: dict[str, type[Term[Any]]] = {
    "regression": Regression,
    "matching": Matching,
    "critic": Denoising,
    "gan": GAN,
}
"""`TERMS["mine"] = Mine` makes a term known; it then has its settings in `distill.terms.mine`."""

BUILT_IN = tuple(TERMS)
"""Those whose settings are in `distill` itself, in the order in which they draw and are taken."""
