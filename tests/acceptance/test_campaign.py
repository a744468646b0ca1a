"""A few rounds of the campaign of benchmarks/faults: what was answered is there, what was sent arrives once."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.faults import kill
from benchmarks.faults.site import MANNERS, Site, count

Tool = Callable[[str], str]


@pytest.fixture
def site(tmp_path: Path, tool: Tool) -> Iterator[Site]:
    tool("/usr/sbin/Orthanc")
    small = Site(tmp_path)
    small.start()
    yield small
    small.stop()


def test_nothing_is_lost_whoever_is_killed_and_however_senders_behave(site: Site) -> None:
    chance, pause = random.Random(7), threading.Event()
    for manner, victim in zip(MANNERS, ("node", "worker", "pacs", "node", "worker"), strict=True):
        site.send(manner, manner)
        pause.wait(chance.uniform(0.0, 2.0))
        kill.kill(site, victim, chance, pause)
    site.settle()
    total = count(site)
    assert total.faults == []
    assert total.series == len(MANNERS)
    assert total.answered == sum(len(sending.paths) for sending in site.sendings)


def test_a_loss_would_be_seen(site: Site) -> None:
    """The count finds a lost instance, a lost result and a series that is not delivered."""
    site.send("plain")
    site.settle()
    assert count(site).faults == []
    archived = sorted((site.node.state_dir / "archive").rglob("*.dcm"))
    archived[0].unlink()
    result = next(row["id"] for row in site.pacs.instances() if row["Modality"] == "SR")
    site.pacs.delete(result)
    faults = " ".join(count(site).faults)
    assert "is lost" in faults
    assert "sr is not in the PACS as it was made" in faults
