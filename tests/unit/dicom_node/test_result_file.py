"""Result files that were lost or changed, and what a person's retry makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.errors import LowDisk
from dicom_node.result_file import damage, damaged
from dicom_node.spool import Spool
from dicom_node.states import DeliveryState, SeriesState
from pipeline.types import ResultKind
from tests.fixtures.outbox import Outbox
from tests.fixtures.part10 import sha256
from tests.fixtures.samples import SERIES

HARM: dict[str, Callable[[Path], object]] = {
    "altered": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x07"),
    "gone": lambda path: path.unlink(),
}


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    with ExitStack() as stack:
        yield Outbox(tmp_path, stack)


def _retry(outbox: Outbox) -> str:
    return _command(outbox, "retry", SERIES)


def _command(outbox: Outbox, *arguments: str) -> str:
    """What `dicomnode` says in the state folder of the outbox."""
    config = outbox.folder / "config.toml"
    pacs = '[[destinations]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 104\n'
    config.write_text(f'[node]\nstate_dir = "{outbox.folder}"\n{pacs}')
    ran = CliRunner().invoke(app, [*arguments, "--config", str(config)], env={"COLUMNS": "1000"})
    assert ran.exit_code == 0, ran.output
    return ran.output


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_harm_is_seen_in_the_file_that_has_it(outbox: Outbox, harm: Callable[[Path], object]) -> None:
    paths = outbox.fill()
    results = outbox.ledger.details(SERIES).results
    assert damaged(results, outbox.results) == []
    digests = {kind: sha256(path) for kind, path in paths.items()}
    harm(paths[ResultKind.LESIONS])
    assert damaged(results, outbox.results) == [item.id for item in results if item.kind is ResultKind.LESIONS]
    assert "analyses the series again" in damage(paths[ResultKind.LESIONS], digests[ResultKind.LESIONS])
    assert damage(paths[ResultKind.SR], digests[ResultKind.SR]) == ""


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_retry_of_a_delivery_that_failed_for_a_damaged_file_analyses_again(
    outbox: Outbox, harm: Callable[[Path], object]
) -> None:
    _, port = outbox.archive(same_association=True)
    harm(outbox.fill()[ResultKind.LESIONS])
    outbox.courier(port).run_once()
    assert outbox.series().state is SeriesState.FAILED
    assert "receiving" in _retry(outbox)
    assert (outbox.series().state, outbox.series().revision) == (SeriesState.RECEIVING, 2)
    assert not any(result.current for result in outbox.ledger.details(SERIES).results)


def test_retry_delivers_a_file_that_was_restored(outbox: Outbox) -> None:
    _, port = outbox.archive(same_association=True)
    path = outbox.fill()[ResultKind.LESIONS]
    content = path.read_bytes()
    path.unlink()
    courier = outbox.courier(port)
    courier.run_once()
    path.write_bytes(content)
    assert "analysed" in _retry(outbox)
    outbox.clock.now = datetime.now(UTC)  # the command has a clock of its own
    courier.run_once()
    assert outbox.states() == {DeliveryState.COMMITTED}
    assert outbox.series().revision == 1


def test_changed_bytes_are_set_aside_with_the_reason_and_go_nowhere(outbox: Outbox) -> None:
    archive, port = outbox.archive(same_association=True)
    second, port2 = outbox.archive(same_association=True)
    path = outbox.fill(("pacs", "pacs2"))[ResultKind.LESIONS]
    HARM["altered"](path)
    altered = path.read_bytes()
    config = outbox.config(port, port2)
    for destination in config.destinations:
        outbox.courier_of(config.model_copy(update={"destinations": (destination,)})).run_once()
    uid = outbox.deliveries()[ResultKind.LESIONS].sop_instance_uid
    assert uid not in {*archive.instances, *second.instances}
    assert len(archive.instances) == len(second.instances) == 2
    kept = outbox.spool.quarantine / f"result-{uid}.dcm"
    assert (kept.read_bytes(), path.exists()) == (altered, False)
    assert "is not what the analysis wrote" in kept.with_name(f"{kept.name}.reason.txt").read_text()
    assert f"It lies in {kept}" in outbox.series().reason
    assert outbox.series().state is SeriesState.FAILED
    assert "1 result object(s) failed a check and were not sent" in _command(outbox, "status")
    assert "Quarantined, not sent" in " ".join(_command(outbox, "show", SERIES).split())


def test_where_it_cannot_be_set_aside_it_is_not_sent_either(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, port = outbox.archive(same_association=True)
    HARM["altered"](outbox.fill()[ResultKind.LESIONS])

    def fail(*_: object) -> Path:
        raise LowDisk("the disk is full")

    monkeypatch.setattr(Spool, "set_aside", fail)
    outbox.courier(port).run_once()
    assert len(archive.instances) == 2
    assert "could not be set aside: the disk is full" in outbox.series().reason
