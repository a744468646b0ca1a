"""Do again what ended badly: as a person asks by `dicomnode retry` or at the status page."""

from __future__ import annotations

from datetime import datetime

from dicom_node.config import Config
from dicom_node.ledger import Ledger, SeriesRecord
from dicom_node.result_file import damaged


def retry(ledger: Ledger, config: Config, series_uid: str, now: datetime) -> SeriesRecord:
    """`Ledger.retry`, with what the disk and config.toml say of the results and their destinations."""
    lost = damaged(ledger.details(series_uid).results, config.node.state_dir / "results")
    return ledger.retry(series_uid, now, lost, [destination.name for destination in config.destinations])
