"""Notifications as they arrive: over SMTP with STARTTLS and a login, by webhook, after a restart, without names."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dicom_node import config as configuration
from dicom_node import notify_send
from dicom_node.audit import Waiting
from dicom_node.cli import app
from dicom_node.config import Config
from dicom_node.doctor import file_faults
from dicom_node.errors import ConfigError, TransientError
from dicom_node.ledger import Ledger
from dicom_node.ledger_notices import STOPPED
from dicom_node.notifier import NotificationService, Notifier, trial
from dicom_node.retention import Disk
from dicom_node.tls import Identity, server_context
from pipeline.types import AnalysisOutcome
from tests.fixtures import told
from tests.fixtures.certificates import Authority
from tests.fixtures.outbox import Clock
from tests.fixtures.samples import RESULTS, SERIES, analysed, at, complete, outcome, queue, receive

PATIENT = {"patient_id": "P4711", "patient_name": "Musterfrau^Erika", "accession_number": "A0815"}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hook() -> Iterator[told.Hook]:
    with told.webhook() as running:
        yield running


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def settings(tmp_path: Path, **channel: Any) -> Config:
    pacs = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}
    content = {"name": "admin", "by": "webhook", **channel}
    return configuration.parse(
        {
            "node": {"state_dir": str(tmp_path)},
            "reception": {"min_free_disk_mb": 0},
            "destinations": [pacs],
            "notifications": [content],
        }
    )


def notifier(config: Config, ledger: Ledger, clock: Clock) -> Notifier:
    (channel,) = config.notifications
    found = Notifier(config, channel, ledger, clock, chance=lambda: 0.0)
    found.begin()
    return found


def fail(ledger: Ledger, series_uid: str = SERIES, reason: str = "worker process died") -> None:
    """An analysis that fails for good."""
    receive(ledger, series_uid, study_uid=f"{series_uid}.0")
    complete(ledger, series_uid)
    queue(ledger, series_uid)
    claimed = ledger.claim_job(at(0))
    assert claimed is not None
    assert ledger.job_failed(claimed[0], reason, at(0))


def test_failures_by_webhook_and_what_is_over(
    tmp_path: Path, ledger: Ledger, clock: Clock, hook: told.Hook
) -> None:
    telling = notifier(settings(tmp_path, url=hook.url), ledger, clock)
    telling.run_once()
    assert not hook.posts
    fail(ledger)
    fail(ledger, "1.2.3.2")
    telling.run_once()
    telling.run_once()
    (post,) = hook.posts
    assert (post["kind"], post["status"], post["node"]) == ("failures", "raised", "DICOMNODE")
    assert post["lines"] == ["2 analyses failed: worker_died", "2 series are in state FAILED"]
    assert "dicomnode retry" in post["remedy"]
    for uid in (SERIES, "1.2.3.2"):
        ledger.cancel(uid, at(10))
    telling.run_once()
    assert [each["status"] for each in hook.posts] == ["raised", "resolved"]


def test_what_is_not_taken_waits_survives_a_restart_and_comes_once(
    tmp_path: Path, ledger: Ledger, clock: Clock, hook: told.Hook
) -> None:
    config = settings(tmp_path, url=hook.url)
    telling = notifier(config, ledger, clock)
    fail(ledger)
    hook.status = 503
    telling.run_once()
    (waiting,) = ledger.undelivered_notices()
    assert "503" in waiting.error
    restarted = notifier(config, ledger, clock)
    hook.status = 204
    restarted.run_once()
    assert not hook.posts  # its pause is not over
    clock.advance(60)
    restarted.run_once()
    assert len(hook.posts) == 1
    again = notifier(config, ledger, clock)
    clock.advance(7200)
    again.run_once()
    assert len(hook.posts) == 1
    assert not ledger.undelivered_notices()


def test_a_start_after_a_crash(tmp_path: Path, ledger: Ledger, clock: Clock, hook: told.Hook) -> None:
    config = settings(tmp_path, url=hook.url)
    assert not ledger.note_start("the node starts, port 1", at(0))
    telling = notifier(config, ledger, clock)
    telling.run_once()
    assert ledger.note_start("the node starts, port 1", at(1))  # nobody has stopped it
    telling.run_once()
    assert [post["kind"] for post in hook.posts] == ["crash"]
    ledger.note(STOPPED, at(2))
    assert not ledger.note_start("the node starts, port 1", at(3))
    clock.advance(7200)
    telling.run_once()
    assert len(hook.posts) == 1


def test_backlog_disk_and_certificates(
    tmp_path: Path,
    ledger: Ledger,
    clock: Clock,
    hook: told.Hook,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = settings(tmp_path, url=hook.url, kinds=["backlog", "disk", "certificates"])
    soon = authority.issue("soon", begin=clock(), days=10)
    tls = config.tls.model_copy(update={"certificate": soon.certificate, "key": authority.key, "port": 2762})
    telling = notifier(config.model_copy(update={"tls": tls}), ledger, clock)
    analysed(ledger)
    disk = Disk(2 << 30, 2 << 30)
    telling._lookout._disk = lambda _: disk
    since = clock()
    telling._lookout._audit = lambda: [Waiting("syslog at arr:6514", 7, since), Waiting("audit", 1, clock())]
    telling.run_once()
    assert [post["kind"] for post in hook.posts] == ["disk", "certificates"]
    assert "soon nothing will be received" in hook.posts[0]["lines"][0]
    assert "expires in" in hook.posts[1]["lines"][0]
    assert "the port for TLS goes on with the old ones" in hook.posts[1]["lines"][1]
    disk = replace(disk, free_bytes=1 << 30)
    clock.advance(2 * 3600)
    telling.run_once()
    assert [(post["kind"], post["status"]) for post in hook.posts[2:]] == [("backlog", "raised"), ("disk", "more")]
    assert hook.posts[2]["lines"] == [
        "3 objects wait for pacs, the oldest since 2 hours",
        "7 audit messages wait for syslog at arr:6514, none taken since 2 hours",
    ]
    assert "nothing is received" in hook.posts[3]["lines"][0]


def scored(ledger: Ledger, series_uid: str, severity: float, before: float) -> None:
    receive(ledger, series_uid, study_uid=f"{series_uid}.0")
    complete(ledger, series_uid)
    queue(ledger, series_uid)
    claimed = ledger.claim_job(at(0))
    assert claimed is not None
    priors = [
        {"acquired": "2020-01-01", "severity_score": 0.9},
        {"acquired": "2021-01-01", "severity_score": before},
    ]
    report = {"severity_score": severity, "priors": priors}
    made = outcome(1, series_uid=series_uid)
    assert ledger.job_done(claimed[0], AnalysisOutcome(report, made.objects), RESULTS, {}, at(0))


@pytest.mark.parametrize(("changes", "expected"), [({}, 2), ({"rise": 2}, 1)])
def test_the_clinical_rule_is_off_unless_asked_for_and_names_nobody(
    tmp_path: Path, ledger: Ledger, clock: Clock, hook: told.Hook, changes: dict[str, Any], expected: int
) -> None:
    silent = notifier(settings(tmp_path, url=hook.url), ledger, clock)
    config = settings(tmp_path, url=hook.url, name="doctor", kinds=["clinical"], **changes)
    telling = notifier(config, ledger, clock)
    scored(ledger, "1.2.3.1", severity=0.3, before=0.2)  # one class up
    scored(ledger, "1.2.3.2", severity=0.6, before=0.2)  # two
    scored(ledger, "1.2.3.3", severity=0.21, before=0.2)
    silent.run_once()
    telling.run_once()
    (post,) = hook.posts
    assert len(post["lines"]) == expected
    assert "Research use only, not for diagnostic use" in post["remedy"]
    assert "one study: from 5-25 % to > 50 % of the lungs" in post["lines"]


def test_no_message_names_a_patient(tmp_path: Path, ledger: Ledger, clock: Clock, hook: told.Hook) -> None:
    kinds = ["failures", "backlog", "disk", "certificates", "crash", "clinical"]
    telling = notifier(settings(tmp_path, url=hook.url, kinds=kinds), ledger, clock)
    from tests.fixtures.samples import filing

    identity = replace(filing(1).identity, **PATIENT)
    ledger.file_instances([filing(1, identity=identity)], at(0))
    complete(ledger)
    queue(ledger)
    claimed = ledger.claim_job(at(0))
    assert claimed is not None
    ledger.job_failed(claimed[0], f"{PATIENT['patient_name']} {SERIES} was not analysed", at(0))
    telling.run_once()
    (post,) = hook.posts
    for secret in (*PATIENT.values(), "Musterfrau", SERIES, "1.2.3"):
        assert secret not in str(post), secret


def test_accession_numbers_only_where_asked_for(
    tmp_path: Path, ledger: Ledger, clock: Clock, hook: told.Hook
) -> None:
    config = settings(tmp_path, url=hook.url, kinds=["clinical"], identify=True)
    telling = notifier(config, ledger, clock)
    scored(ledger, "1.2.3.1", severity=0.6, before=0.2)
    telling.run_once()
    assert "(accession number " in hook.posts[0]["lines"][0]


def mail(port: int, authority: Authority, **changes: Any) -> dict[str, Any]:
    base = {"by": "mail", "host": "localhost", "port": port, "sender": "node@example.org", "timeout_s": 5}
    return {**base, "recipients": ["admin@example.org"], "tls_ca": str(authority.certificate), **changes}


def test_a_mail_with_starttls_and_a_login(tmp_path: Path, authority: Authority) -> None:
    owner = authority.issue("mail")
    secret = tmp_path / "password"
    secret.write_text("s3cret\n")
    login = {"user": "node", "password_file": str(secret)}
    with told.mailbox(server_context(Identity(owner.certificate, owner.key), None), "s3cret") as box:
        (channel,) = settings(tmp_path, **mail(box.port, authority, **login)).notifications
        notify_send.send(channel, trial(at(0)), "NODE")
        (letter,) = box.letters
        assert letter["Subject"] == "[dicomnode NODE] test of notifications"
        assert letter["To"] == "admin@example.org"
        assert letter["Auto-Submitted"] == "auto-generated"
        secret.write_text("wrong\n")
        with pytest.raises(TransientError, match="does not take user and password_file"):
            notify_send.send(channel, trial(at(0)), "NODE")
        stranger = Authority(tmp_path, "stranger")
        (channel,) = settings(tmp_path, **mail(box.port, stranger, **login)).notifications
        with pytest.raises(TransientError, match="not believed"):
            notify_send.send(channel, trial(at(0)), "NODE")
        assert len(box.letters) == 1


def test_a_mail_to_this_machine_and_one_that_is_refused(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    plain = {"by": "mail", "host": "127.0.0.1", "security": "none", "sender": "node@example.org"}
    with told.mailbox() as box:
        config = settings(tmp_path, **plain, port=box.port, recipients=["admin@example.org"])
        telling = notifier(config, ledger, clock)
        fail(ledger)
        box.refuses = "451 4.7.1 greylisted"
        telling.run_once()
        (waiting,) = ledger.undelivered_notices()
        assert "refused" in waiting.error
        box.refuses = ""
        clock.advance(60)
        telling.run_once()
        (letter,) = box.letters
        body = letter.get_payload(decode=True)
        assert isinstance(body, bytes)
        assert b"1 analyses failed: worker_died" in body
        assert b"What to do" in body
    clock.advance(7200)
    fail(ledger, "1.2.3.2")
    telling.run_once()  # nobody listens any more: said in the log, and tried again
    (waiting,) = ledger.undelivered_notices()
    assert "Check host, port and security" in waiting.error


def test_a_recipient_who_is_gone_neither_repeats_nor_silences_what_the_others_get(
    tmp_path: Path, ledger: Ledger, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    plain = {"by": "mail", "host": "127.0.0.1", "security": "none", "sender": "node@example.org"}
    with told.mailbox() as box:
        box.unknown = "gone@example.org"
        recipients = ["admin@example.org", box.unknown]
        config = settings(tmp_path, **plain, port=box.port, recipients=recipients, interval_h=1)
        telling = notifier(config, ledger, clock)
        fail(ledger)
        telling.run_once()
        assert len(box.letters) == 1
        assert "refused 1 of 2 recipients" in caplog.text and "no such mailbox" in caplog.text
        for _ in range(50):  # minutes
            clock.advance(60)
            telling.run_once()
        assert len(box.letters) == 1
        fail(ledger, "1.2.3.2")
        clock.advance(3600)
        telling.run_once()
        assert [letter["Subject"] for letter in box.letters[1:]] == [
            "[dicomnode DICOMNODE] more: something failed (2)"
        ]
        (channel,) = config.notifications
        with pytest.raises(TransientError, match="refused 1 of 2 recipients"):  # who tries it by hand is told
            notify_send.send(channel, trial(at(0)), "NODE")


def test_a_channel_that_hangs_or_breaks_holds_up_nothing(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    config = settings(tmp_path, url="http://127.0.0.1:1/")
    service = NotificationService(config, ledger, clock)
    service.begin()
    called, going_on = threading.Event(), threading.Event()

    def hang(*_: Any) -> None:
        called.set()
        going_on.wait()
        raise ZeroDivisionError

    (telling,) = service._notifiers.values()
    telling._send = hang
    fail(ledger)
    service.start()
    assert called.wait(10)
    service.stop()  # returns at once
    going_on.set()
    (thread,) = service.threads
    thread.join(10)
    assert not thread.is_alive()
    assert ledger.notices("admin")["failures"].message is not None


@pytest.mark.parametrize(
    ("channel", "says"),
    [
        ({"by": "pigeon"}, 'by is "mail" or "webhook"'),
        ({"by": "webhook", "url": "http://example.org/", "user": "x", "password_file": "/x"}, "use https://"),
        ({"by": "mail", "host": "h", "sender": "a@b\nBcc: x@y", "recipients": ["a@b"]}, "a mail address is needed"),
        (
            {"by": "mail", "host": "h", "sender": "a@b", "recipients": ["a@b"], "security": "none", "user": "u"},
            "user and password_file belong together",
        ),
        (
            {
                "by": "mail",
                "host": "mail.example.org",
                "sender": "a@b",
                "recipients": ["a@b"],
                "security": "none",
                "user": "u",
                "password_file": "/x",
            },
            "anybody on the network can read a password",
        ),
        ({"by": "webhook"}, "either url or url_file is needed"),
        ({"by": "webhook", "url": "https://example.org", "url_file": "/x"}, "either url or url_file is needed"),
        ({"by": "webhook", "url": "https://example.org", "kinds": ["weather"]}, "notifications[0].kinds[0]"),
    ],
)
def test_wrong_settings_are_named(channel: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configuration.parse({"notifications": [{"name": "a", **channel}]})
    assert says in str(caught.value)


def test_the_path_of_a_webhook_is_said_nowhere(
    tmp_path: Path, ledger: Ledger, clock: Clock, hook: told.Hook, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings(tmp_path, url=f"{hook.url}/T0/SECRET")
    host = hook.url.removesuffix("/hook")
    telling = notifier(config, ledger, clock)
    fail(ledger)
    hook.status = 403
    telling.run_once()
    (waiting,) = ledger.undelivered_notices()
    assert waiting.error.startswith(f"admin ({host}) refused the notification with HTTP status 403")
    assert waiting.error in caplog.text
    assert f'"url":"{host}/***"' in config.model_dump_json()
    assert "SECRET" not in "".join((waiting.error, caplog.text, config.model_dump_json(), repr(config)))
    (pacs,) = configuration.parse(
        {"destinations": [{"name": "p", "protocol": "dicomweb", "url": "https://p.example.org/dicom-web"}]}
    ).destinations
    assert "https://p.example.org/dicom-web" in pacs.model_dump_json()


@pytest.mark.parametrize(
    ("status", "says"), [(403, "still allowed"), (404, "make a new webhook"), (500, "status 500.")]
)
def test_a_webhook_that_refuses_is_no_archive(tmp_path: Path, hook: told.Hook, status: int, says: str) -> None:
    hook.status = status
    (channel,) = settings(tmp_path, url=hook.url).notifications
    with pytest.raises(TransientError, match=says) as caught:
        notify_send.send(channel, trial(at(0)), "NODE")
    assert not {"DICOMweb", "PACS"} & set(re.findall(r"\w+", str(caught.value)))


def test_the_url_of_a_webhook_from_a_file(tmp_path: Path, hook: told.Hook) -> None:
    held = tmp_path / "url"
    config = settings(tmp_path, url_file=str(held))
    (channel,) = config.notifications
    for content, says in (("", "is empty"), ("ftp://SECRET", "a URL as"), ("http://u:SECRET@h/", "no user or")):
        held.write_text(content)
        with pytest.raises(TransientError, match=f"^admin: {held}:? {says}") as caught:
            notify_send.send(channel, trial(at(0)), "NODE")
        assert "SECRET" not in str(caught.value)
        (fault,) = (fault for fault in file_faults(config) if fault.startswith("notifications"))
        assert fault == f"notifications[0].url_file: {str(caught.value).removeprefix('admin: ')}"
    held.write_text(f"{hook.url}?sig=SECRET/\n")
    notify_send.send(channel, trial(at(0)), "NODE")
    assert (len(hook.posts), hook.paths) == (1, ["/hook?sig=SECRET/"])


def test_the_command(tmp_path: Path, hook: told.Hook) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f'[[notifications]]\nname = "admin"\nby = "webhook"\nurl = "{hook.url}"\n')
    done = CliRunner().invoke(app, ["notify-test", "admin", "--config", str(path)])
    assert (done.exit_code, done.stdout) == (0, "admin: the webhook took the message\n")
    assert hook.posts[0]["status"] == "test"
    done = CliRunner().invoke(app, ["notify-test", "nobody", "--config", str(path)])
    assert "no notification 'nobody' (known: admin)" in str(done.exception)
