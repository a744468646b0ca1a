"""Delivery of scores to a RIS by MLLP: the same delivery row, retry, window and give-up as any destination."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from typer.testing import CliRunner

from dicom_node import doctor_peers, hl7_send, send_test
from dicom_node.cli import app
from dicom_node.config import Config, Hl7Destination
from dicom_node.courier import Courier
from dicom_node.errors import TransientError
from dicom_node.findings import Grade
from dicom_node.ledger import Delivery
from dicom_node.states import DeliveryState, SeriesState
from dicom_node.tls import Identity, server_context
from pipeline.types import ResultKind
from tests.fixtures import ris as fixture
from tests.fixtures.certificates import Authority
from tests.fixtures.outbox import Outbox
from tests.fixtures.ris import Ris, ack, frame, read
from tests.fixtures.samples import SERIES


@pytest.fixture
def outbox(tmp_path: Path, result_sr: Path) -> Iterator[Outbox]:
    with ExitStack() as stack:
        box = Outbox(tmp_path, stack)
        shutil.copy(result_sr, box.results / "report.dcm")
        yield box


@pytest.fixture
def ris() -> Iterator[Ris]:
    with fixture.serve(Ris()) as running:
        yield running


def fill(outbox: Outbox, *destinations: str) -> None:
    outbox.fill(
        ("ris", *destinations),
        (ResultKind.LESIONS, ResultKind.SR),
        report=outbox.results / "report.dcm",
        takes={"ris": frozenset({ResultKind.SR})},
    )


def delivery(outbox: Outbox) -> Delivery:
    return outbox.deliveries("ris")[ResultKind.SR]


def courier(outbox: Outbox, ris: Ris, **changes: Any) -> Courier:
    return outbox.courier_of(outbox.hl7_config(ris.port, **changes))


def test_one_message_per_report_and_its_acknowledgement_commits(outbox: Outbox, ris: Ris) -> None:
    fill(outbox)
    assert set(outbox.deliveries("ris")) == {ResultKind.SR}  # a RIS is sent no object
    assert courier(outbox, ris).run_once() is None
    assert delivery(outbox).state is DeliveryState.COMMITTED
    assert outbox.series().state is SeriesState.DELIVERED
    (message,) = ris.messages
    assert dcmread(outbox.results / "report.dcm").PatientID in message
    read(message)


@pytest.mark.parametrize("code", ["AE", "AR", "CE"])
def test_a_negative_acknowledgement_is_permanent_says_why_and_a_retry_helps(
    outbox: Outbox, ris: Ris, code: str
) -> None:
    ris.answer = lambda control_id: ack(control_id, code, "unknown patient", "204^Unknown key identifier^HL70357")
    fill(outbox)
    assert courier(outbox, ris).run_once() is None
    failed = delivery(outbox)
    assert failed.state is DeliveryState.FAILED
    assert code in failed.reason and "unknown patient" in failed.reason
    assert outbox.series().state is SeriesState.FAILED
    ris.answer = ack
    outbox.ledger.retry(SERIES, outbox.clock())
    courier(outbox, ris).run_once()
    assert outbox.series().state is SeriesState.DELIVERED
    assert len(set(ris.control_ids)) == 1


def test_a_refusal_that_names_the_patient_does_not_get_into_log_and_ledger(
    outbox: Outbox, ris: Ris, caplog: pytest.LogCaptureFixture
) -> None:
    path = outbox.results / "report.dcm"
    ds = dcmread(path)
    ds.PatientName, ds.PatientID, ds.AccessionNumber = "Musterfrau^Erika", "P|4711", "A0815"
    ds.save_as(path)
    said = "MUSTERFRAU, Erika (P\\F\\4711): order A0815 is unknown"
    ris.answer = lambda control_id: ack(control_id, "AE", said)
    fill(outbox)
    courier(outbox, ris).run_once()
    assert "[...], [...] ([...]): order [...] is unknown" in delivery(outbox).reason
    for secret in ("usterfrau", "Erika", "4711", "A0815"):
        assert secret not in caplog.text.replace(str(ris.messages), "")


LATE = b"\x0bMSH|^~\\&|half of an answer"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda _: None, "did not acknowledge within 0.3 s"),
        (lambda _: LATE, "did not acknowledge within 0.3 s"),
        (lambda _: ack("ANOTHER"), "acknowledged another message ('ANOTHER'"),
        (lambda control_id: ack(control_id, "AE", "locked", "206^Application record locked"), "refused"),
        (lambda control_id: ack(control_id, "OK"), "unknown code 'OK'"),
        (lambda _: frame("HTTP/1.1 400 Bad Request"), "something else"),
        (lambda _: frame("MSH|\rMSA|AA|1"), "something else"),
        (lambda _: b"HTTP/1.1 400 Bad Request\x1c\r", "does not speak MLLP"),
        (lambda _: b"\x0b" + b"A" * 70_000, "more than 64 kB"),
    ],
)
def test_no_clear_answer_is_tried_again(outbox: Outbox, ris: Ris, answer: Any, says: str) -> None:
    ris.answer = answer
    fill(outbox)
    again = courier(outbox, ris, timeout_s=0.3).run_once()
    assert again == outbox.clock() + timedelta(seconds=30)
    waiting = delivery(outbox)
    assert waiting.state is DeliveryState.PENDING
    assert waiting.attempts == 1
    assert says in waiting.reason


@pytest.mark.parametrize("end", [b"\x1c\r", b"\x1c", b"\x1c\r\n"], ids=["FS CR", "FS alone", "FS CR LF"])
def test_a_late_acknowledgement_of_another_message_is_passed_over(outbox: Outbox, ris: Ris, end: bytes) -> None:
    ris.answer = lambda control_id: b"".join(b"\x0b" + ack(told).encode() + end for told in ("EARLIER", control_id))
    fill(outbox)
    courier(outbox, ris).run_once()
    assert delivery(outbox).state is DeliveryState.COMMITTED


def test_a_restart_between_message_and_acknowledgement_loses_nothing(outbox: Outbox, ris: Ris) -> None:
    def crash(_: str) -> None:
        raise KeyboardInterrupt  # in the node, while the RIS has the message and its answer is on the way

    fill(outbox)
    sender = courier(outbox, ris)
    killed = sender._note
    sender._note = lambda *_: crash("")  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        sender.run_once()
    assert delivery(outbox).state is DeliveryState.PENDING
    del killed
    after = courier(outbox, ris)
    assert after.run_once() is None
    assert delivery(outbox).state is DeliveryState.COMMITTED
    for _ in range(3):  # committed is committed
        courier(outbox, ris).run_once()
    assert len(ris.messages) == 2
    assert ris.messages[0] == ris.messages[1]  # so that the RIS can tell that it is the same


def test_a_silent_ris_is_given_up_in_the_end(outbox: Outbox, ris: Ris) -> None:
    def close(_: str) -> str:
        raise ConnectionError

    ris.answer = close
    fill(outbox)
    sender = outbox.courier_of(outbox.hl7_config(ris.port, {"give_up_after_h": 6.0}))
    again = sender.run_once()
    assert again is not None
    assert "closed the connection" in delivery(outbox).reason
    attempts = 1
    while again is not None:
        outbox.clock.now = again
        again = sender.run_once()
        attempts += 1
    assert delivery(outbox).state is DeliveryState.FAILED
    assert "Given up" in delivery(outbox).reason
    assert attempts < 20  # 30 s, a minute, … an hour apart
    assert len(ris.messages) == attempts


def test_a_dead_ris_does_not_delay_the_archive_nor_break_its_window(outbox: Outbox, ris: Ris) -> None:
    fill(outbox, "pacs")
    _, port = outbox.archive()
    outbox.courier(port, verify="none").run_once()
    assert outbox.states("pacs") == {"committed"}
    later = courier(outbox, ris, window="20:00-21:00").run_once()
    assert later is not None
    assert not ris.messages
    assert "window" in delivery(outbox).reason
    outbox.clock.now = later
    courier(outbox, ris, window="20:00-21:00").run_once()
    assert outbox.series().state is SeriesState.DELIVERED


def test_over_tls_and_not_to_a_stranger(outbox: Outbox, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    owner, stranger = authority.issue("ris"), authority.issue("else", names=("elsewhere.example.org",))
    secure = {"tls": True, "tls_ca": str(authority.certificate), "timeout_s": 5}
    with fixture.serve(Ris(), server_context(Identity(stranger.certificate, stranger.key), None)) as wrong:
        fill(outbox)
        courier(outbox, wrong, **secure).run_once()
        assert "not believed" in delivery(outbox).reason
        assert not wrong.messages
    with fixture.serve(Ris(), server_context(Identity(owner.certificate, owner.key), None)) as right:
        outbox.clock.advance(30)
        courier(outbox, right, **secure).run_once()
        assert delivery(outbox).state is DeliveryState.COMMITTED
        with pytest.raises(TransientError, match="did not acknowledge|broke|closed"):
            plain = destination(outbox.hl7_config(right.port, timeout_s=0.5))
            (result,) = hl7_send.store(plain, [outbox.results / "report.dcm"])
            raise result.error or AssertionError
    assert len(right.messages) == 1


def destination(config: Config) -> Hl7Destination:
    (found,) = config.destinations
    assert isinstance(found, Hl7Destination)
    return found


def test_send_test_sends_one_marked_message(outbox: Outbox, ris: Ris) -> None:
    config = outbox.hl7_config(ris.port, processing_id="T")
    (outcome,) = send_test.run(config, destination(config), None, with_ct=True, wait_s=0)
    assert (outcome.good, outcome.answer) == (True, "stored")
    message = read(ris.messages[0])
    assert message.msh.msh_11.value == "T"
    assert "TEST^DICOMNODE" in ris.messages[0]


def test_echo_and_doctor_look_whether_the_port_is_open(ris: Ris, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        f'[[destinations]]\nname = "ris"\nprotocol = "hl7"\nhost = "127.0.0.1"\nport = {ris.port}\n'
        f'[[destinations]]\nname = "off"\nprotocol = "hl7"\nhost = "127.0.0.1"\nport = 1\n'
    )
    runner = CliRunner()
    shown = runner.invoke(app, ["echo", "ris", "--config", str(path)])
    assert shown.exit_code == 0 and "answers" in shown.stdout
    shown = runner.invoke(app, ["echo", "off", "--config", str(path)])
    assert isinstance(shown.exception, TransientError)
    from dicom_node import config as configuration

    settings = configuration.load(path)
    (good,), (bad,) = (doctor_peers.destination(settings, each) for each in settings.destinations)
    assert (good.grade, bad.grade) == (Grade.OK, Grade.FAULT)
    assert not ris.messages
