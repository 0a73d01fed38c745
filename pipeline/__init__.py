"""Distribution matching distillation on Ray."""

import logging
import os

# Before torch loads OpenMP: its threads wait asleep, for spinning ones take the cores from each
# other wherever another process has a share of them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# diffusers loads bitsandbytes where it is installed, which then misses kernels of 4-bit networks.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

# Ray Train and others look for a home as they are imported. A user without a name may have none;
# containers call it so.
if os.path.expanduser("~") == "~":
    os.environ["HOME"] = "/"
