"""`dicomnode doctor`: every check in order, peers beside each other. Looks, and changes nothing but one event.

(The event: a running node notes the commitment report that was asked for.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial

from dicom_node import doctor, doctor_host, doctor_listener, doctor_page, doctor_peers
from dicom_node.config import Config
from dicom_node.findings import Finding

MAX_AT_ONCE = 16


def examine(config: Config, now: datetime, with_analysis: bool = True) -> Iterator[Finding]:
    """What is found, check by check.

    Args:
        config: all of config.toml.
        now: time zone aware.
        with_analysis: also analyse a synthetic chest CT, which takes as long as a real one.
    """
    barred = list(doctor_host.state_folder(config))
    if barred:  # whatever else was said of a node that cannot be looked at would be wrong
        yield from barred
        return
    yield from doctor_host.files(config, doctor.file_faults(config), now)
    yield from doctor_host.disk(config)
    yield from doctor_host.clock(config, now)
    yield from doctor_host.database(config)
    yield from doctor_listener.listener(config)
    yield from doctor_page.page(config)
    yield from _peers(config)
    yield from doctor_host.model(config)
    yield from doctor_host.device(config)
    if with_analysis:
        yield from doctor_host.analysis(config)


def _peers(config: Config) -> Iterator[Finding]:
    """All at once, so that one that does not answer costs its own time only; in the order of config.toml."""
    checks: list[Callable[[], Iterator[Finding]]] = [
        *(partial(doctor_peers.destination, config, peer) for peer in config.destinations),
        *(partial(doctor_peers.source, config, peer) for peer in config.sources),
    ]
    if not checks:
        return
    with ThreadPoolExecutor(min(MAX_AT_ONCE, len(checks))) as pool:
        for found in pool.map(lambda check: list(check()), checks):
            yield from found
