"""CT instances in; lung and lesion masks, scores and result objects out. Knows no socket, database or clock."""

import os
from importlib.metadata import PackageNotFoundError, version

# Threads of OpenMP that wait for each other spin by default. Where something else wants the cores, that takes half
# of them from it; waiting asleep costs nothing on an idle machine (docs/performance.md). It counts when torch is
# loaded, so it stands here, where every program of ours begins; who sets it, keeps his.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

try:
    __version__ = version("dicomnode")
except PackageNotFoundError:  # running from a source tree that was never installed
    __version__ = "0+source"

SOFTWARE_NAME = "dicomnode"
RESEARCH_USE_ONLY = "Research use only, not for diagnostic use"
