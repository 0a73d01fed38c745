"""Distribution matching distillation on Ray."""

import os

# Before torch loads OpenMP: its threads wait asleep, for spinning ones take the cores from each
# other wherever another process has a share of them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
