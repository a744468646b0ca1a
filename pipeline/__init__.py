"""CT instances in; lung and lesion masks, scores and result objects out. Knows no socket, database or clock."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("dicomnode")
except PackageNotFoundError:  # running from a source tree that was never installed
    __version__ = "0+source"

SOFTWARE_NAME = "dicomnode"
RESEARCH_USE_ONLY = "Research use only, not for diagnostic use"
