"""Distribution matching distillation on Ray, from Python too: docs/api.md."""

import logging
import os
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.cli import load_config as load_config
    from pipeline.cluster.distill import distill as distill
    from pipeline.cluster.pairs import make_pairs as make_pairs
    from pipeline.cluster.teacher import make_teacher as make_teacher
    from pipeline.stages.sample import open_student as open_student

API = {
    "load_config": "pipeline.cli",
    "make_teacher": "pipeline.cluster.teacher",
    "make_pairs": "pipeline.cluster.pairs",
    "distill": "pipeline.cluster.distill",
    "open_student": "pipeline.stages.sample",
}
"""Name of a function -> its module, which is imported when the function is asked for."""

# Before torch loads OpenMP: its threads wait asleep, for spinning ones take the cores from each
# other wherever another process has a share of them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# diffusers loads bitsandbytes where it is installed, which then misses kernels of 4-bit networks.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
# transformers says of each class that it reads images with Pillow, where torchvision is missing.
logging.getLogger("transformers.utils.import_utils").setLevel(logging.ERROR)

# Ray Train and others look for a home as they are imported. A user without a name may have none;
# containers call it so.
if os.path.expanduser("~") == "~":
    os.environ["HOME"] = "/"


def __getattr__(name: str) -> Any:
    if name not in API:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return resolve_name(f"{API[name]}:{name}")
