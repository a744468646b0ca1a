"""Logging of node and workers: one line per message on standard error, nothing that identifies a patient."""

from __future__ import annotations

import logging
import os
import sys
import warnings

# What these say may quote values of a data set: pynetdicom identifiers of queries, pydicom values that are invalid.
# httpx names every URL, those of queries too.
TALKATIVE = ("pynetdicom", "pydicom", "alembic", "highdicom", "lungmask", "httpx", "httpcore")


def set_up(level: str) -> None:
    """Log to standard error; journald adds the time, so it is left out under systemd."""
    stamp = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s "
    logging.basicConfig(stream=sys.stderr, level=level, format=f"{stamp}%(levelname)s %(name)s: %(message)s")
    hush()


def hush() -> None:
    """Keep libraries from quoting data sets in logs and warnings."""
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(pydicom|highdicom|pynetdicom)\b")
