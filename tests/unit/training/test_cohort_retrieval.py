"""A cohort from a PACS: what is asked for, and asked for again where it is not here any more."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dicom_node.archive import Address
from dicom_node.config import parse
from dicom_node.ingest import Ingest
from dicom_node.ledger import Ledger
from dicom_node.receiver import Receiver
from dicom_node.retention import Retention
from dicom_node.spool import Spool
from dicom_node.states import SeriesState
from tests.fixtures import studies
from tests.fixtures.retrieving import RetrievingArchive
from training import build, retrieve
from training import studies as looking
from training.build import Plan
from training.retrieve import Criteria, Retrieval
from training.studies import Wanted


class World:
    """A PACS with one CT, and the reception of a node."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "cohort"
        ct = studies.ct(folder / "ct", "one")
        header = ct.headers[0]
        self.study, self.series = str(header.StudyInstanceUID), str(header.SeriesInstanceUID)
        self.pacs = RetrievingArchive(folder / "pacs")
        port = self.pacs.start()
        self.pacs.keep(*(folder / "ct").iterdir())
        source = {"name": "pacs", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": port}
        self.config = parse(
            {
                "node": {"state_dir": str(folder / "state"), "ae_title": "NODE", "port": 0},
                "reception": {"min_free_disk_mb": 0},
                "retention": {"source_days": 0},
                "sources": [source],
            }
        )
        self.spool = Spool(self.config.node.state_dir, 0)
        self.ledger = Ledger(self.config.database_url)
        self.ingest = Ingest(self.spool, self.ledger, lambda: datetime.now(UTC))
        self.receiver = Receiver(self.config, self.spool, self.ingest.submit)
        self.ingest.start()
        self.pacs.peers["NODE"] = Address("127.0.0.1", self.receiver.start())

    def fetch(self, service: str = "move", **more: Any) -> set[str]:
        """One run of the command."""
        source = self.config.sources[0].model_copy(update={"retrieve": service})
        options: dict[str, Any] = {"pause": threading.Event().wait, **more}
        return Retrieval(self.config, source, self.ledger, self.out, **options).run(Criteria(), 0)

    def asked(self) -> list[str]:
        """The series that the PACS was asked for since the last look."""
        found = [str(identifier.SeriesInstanceUID) for identifier in self.pacs.retrieved]
        self.pacs.retrieved.clear()
        return found

    def purge(self) -> None:
        """Retention removes the CT."""
        seen = self.ledger.series(self.series)
        if seen.state is SeriesState.RECEIVING:
            assert self.ledger.settle(seen, SeriesState.NOT_ANALYSED, "a test says so", datetime.now(UTC))
        later = datetime.now(UTC) + timedelta(days=1)
        assert len(Retention(self.config, self.ledger, self.spool).purge(later)) == 1

    def built(self) -> build.Built:
        """The cohort, of what is here."""
        archived = looking.in_archive(self.ledger, self.spool.archive, Wanted())
        received = looking.in_folders([self.out / retrieve.RECEIVED], Wanted())
        return build.build(retrieve.joined(archived, received), self.out, Plan())

    def close(self) -> None:
        self.receiver.stop()
        self.ingest.stop()
        self.ledger.close()
        self.pacs.stop()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path)
    yield found
    found.close()


def test_what_is_here_is_not_asked_for_again(world: World) -> None:
    assert world.fetch() == {world.study}
    assert world.asked() == [world.series]
    assert world.fetch() == {world.study}
    assert world.asked() == []


def test_what_retention_has_removed_is_asked_for_again_and_becomes_a_case(world: World) -> None:
    world.fetch()
    world.purge()
    assert "purged" in world.built().rejected[world.study]
    world.asked()
    assert world.fetch() == {world.study}
    assert world.asked() == [world.series]
    assert len(world.built().added) == 1


def test_what_was_removed_before_the_first_run_is_asked_for(world: World) -> None:
    """The node had received it as it receives all, long before somebody wanted a cohort."""
    world.fetch()
    world.purge()
    shutil.rmtree(world.out)
    world.asked()
    assert world.fetch() == {world.study}
    assert world.asked() == [world.series]


def test_files_that_do_not_come_back_are_no_success(world: World) -> None:
    world.fetch()
    world.purge()
    world.pacs.withheld = set(world.pacs.instances)
    assert world.fetch(pause=lambda _: None) == set()
    assert "12 of 12 instances have not come" in (world.out / retrieve.TABLE).read_text()


def test_of_a_case_nothing_is_asked_for_again(world: World) -> None:
    world.fetch()
    assert len(world.built().added) == 1
    world.purge()
    world.asked()
    assert world.fetch(cases={world.study}) == {world.study}
    assert world.asked() == []


def test_a_folder_that_was_cleared_is_filled_again(world: World) -> None:
    for _ in range(2):
        assert world.fetch("get") == {world.study}
        assert world.asked() == [world.series]
        assert world.fetch("get") == {world.study}
        assert world.asked() == []
        shutil.rmtree(world.out / retrieve.RECEIVED)


def test_ct_in_the_folder_counts_where_the_node_has_purged_it(world: World) -> None:
    world.fetch()
    world.purge()
    assert world.fetch("get") == {world.study}
    assert len(world.built().added) == 1
