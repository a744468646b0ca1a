"""The commands as programs and people use them: JSON with documented keys, exit statuses, examples, completion."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import typer
from rich.console import Console

from dicom_node import cli, cli_common, cli_exit, cli_status
from dicom_node.alarms import Notice
from dicom_node.cli_exit import Status
from dicom_node.errors import ConfigError, LowDisk, NodeError, NotFound, PermanentError, TransientError
from dicom_node.ledger import Ledger
from dicom_node.ledger_writer import RECALL_REMEDY
from dicom_node.notifier import trial
from tests.fixtures.outbox import Outbox
from tests.fixtures.part10 import write_object
from tests.fixtures.samples import SERIES, START
from training import cli as training_cli

PROGRAM = Path(sys.executable).with_name("dicomnode")


class Site:
    """A node's folder with one delivered-to-be series, an archive that answers, and one that does not."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        outbox = Outbox(folder / "state", stack)
        outbox.fill()
        _, port = outbox.archive()
        self.folder = folder
        self.image = write_object(folder / "files")
        self.config = folder / "config.toml"
        peer = {"name": "pacs", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": port, "verify": "none"}
        silent = {**peer, "name": "silent", "port": 1}
        settings = {
            "node": {"state_dir": str(folder / "state"), "port": 0},
            "reception": {"min_free_disk_mb": 1},
            "destinations": [peer, silent],
            "sources": [{"name": "old", "ae_title": "OLD", "host": "127.0.0.1", "port": 1}],
        }
        self.config.write_text(tomli_w.dumps(settings))

    def run(self, *arguments: str) -> int:
        """As `main` does; the exit status."""
        return cli_exit.run(cli.app, [*arguments, "--config", str(self.config)], "dicomnode")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "state").mkdir()
    with ExitStack() as stack:
        yield Site(folder, stack)


def commands(app: typer.Typer) -> dict[str, Any]:
    """Every command, those of groups too, by the words that call it."""
    found: dict[str, Any] = {}

    def walk(words: str, command: Any) -> None:
        for name, below in getattr(command, "commands", {}).items():
            walk(f"{words} {name}".strip(), below)
        if not hasattr(command, "commands"):
            found[words] = command

    walk("", typer.main.get_command(app))
    return found


NODE, TRAIN = commands(cli.app), commands(training_cli.app)
EVERY = [("dicomnode", name) for name in NODE] + [("dicomnode-train", name) for name in TRAIN]
SILENT = {"serve", "lungs", "unet1", "unet2"}  # answer by what they write: a log, a run folder


def command_of(program: str, name: str) -> Any:
    return (NODE if program == "dicomnode" else TRAIN)[name]


@pytest.mark.parametrize(("program", "name"), EVERY)
def test_every_help_has_examples_that_are_understood(program: str, name: str, tmp_path: Path) -> None:
    command = command_of(program, name)
    examples = re.findall(r"^ *Example: (.+)$", command.help, re.MULTILINE)
    assert examples
    for example in examples:
        words = shlex.split(example)
        assert " ".join(words[: 1 + len(name.split())]) == f"{program} {name}"
        given = words[1 + len(name.split()) :]
        for number, word in enumerate(given):  # what must exist, exists here
            if word.startswith("/data/") and word.endswith("ct"):
                given[number] = str(tmp_path)
            if word == "image.dcm":
                given[number] = str(write_object(tmp_path))
        command.make_context(name, given).close()


@pytest.mark.parametrize(("program", "name"), EVERY)
def test_every_command_that_answers_speaks_json_and_says_which_keys(program: str, name: str) -> None:
    command = command_of(program, name)
    takes_json = any("--json" in parameter.opts for parameter in command.params)
    assert takes_json == ("\n\nJSON: " in command.help) == (name not in SILENT)


def documented(name: str) -> tuple[bool, set[str]]:
    """Whether the answer is a list, and the keys: of its entries or its own, from the help."""
    (told,) = re.findall(r"^JSON: ((?:.+\n?)+)", NODE[name].help, re.MULTILINE)
    words = " ".join(told.split()).rstrip(".")
    listed = words.startswith("a list, each with ")
    words = words.removeprefix("a list, each with ").split(", each with ")[0]
    return listed, set(words.split(", "))


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("status", 0),
        (f"show {SERIES}", 0),
        ("purge --dry-run", 0),
        ("retry-failed --dry-run", 0),
        ("echo pacs", 0),
        ("send IMAGE pacs", 0),
        ("send IMAGE silent", 1),
        ("check", 0),
        ("models list", 0),
        ("pull --accession A1 --no-wait", 3),
        ("reconcile", 1),
    ],
)
def test_json_has_the_documented_keys(
    site: Site, capsys: pytest.CaptureFixture[str], line: str, status: int
) -> None:
    given = line.replace("IMAGE", str(site.image)).split()
    assert site.run(*given, "--json") == status
    answer = json.loads(capsys.readouterr().out)
    if status == Status.NOT_FOUND:
        assert answer["error"]["kind"] == "not_found"
        return
    name = next(name for name in NODE if line == name or line.startswith(name + " "))
    listed, keys = documented(name)
    assert isinstance(answer, list) == listed
    for entry in answer if listed else [answer]:
        assert set(entry) == keys


def test_retry_and_cancel_answer_with_the_series(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert site.run("status", "--json") == 0
    (entry,) = json.loads(capsys.readouterr().out)["series"]
    assert site.run("cancel", SERIES, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert set(record) == set(entry) and record["state"] == "cancelled"
    assert site.run("retry", SERIES, "--json") == 0
    assert json.loads(capsys.readouterr().out)["state"] != "cancelled"


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    with ExitStack() as stack:
        yield Outbox(tmp_path, stack)


def test_what_failed_for_one_reason_is_done_again_at_once(
    outbox: Outbox, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = f"the PACS was away; {RECALL_REMEDY}"
    for number, why in ((7, "the PACS was away"), (8, "the PACS was away"), (9, "worker process died"), (6, wrong)):
        outbox.fill(series_uid=f"1.2.3.{number}")
        for delivery in outbox.deliveries(series_uid=f"1.2.3.{number}").values():
            outbox.ledger.delivery_failed(delivery.id, outbox.clock(), why)
    pacs = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}
    config = outbox.folder / "config.toml"
    config.write_text(tomli_w.dumps({"node": {"state_dir": str(outbox.folder)}, "destinations": [pacs]}))
    run = partial(cli_exit.run, cli.app, program="dicomnode")
    away = ["retry-failed", "--reason", "pacs WAS", "--config", str(config)]
    assert run([*away, "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["dry_run"], len(told["series"])) == (True, 2)
    (refused,) = told["refused"]
    assert refused.startswith("series 1.2.3.6 is left as it is: ") and RECALL_REMEDY in refused
    assert run(away) == 0
    assert capsys.readouterr().out.endswith(f"{refused}\n2 series are done again\n")
    states = [outbox.series(f"1.2.3.{number}").state for number in (7, 8, 9, 6)]
    assert states == ["analysed", "analysed", "failed", "failed"]
    assert run([*away, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["series"] == []


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["show", "1.2.3.99"], Status.NOT_FOUND, "1.2.3.99"),
        (["echo", "nobody"], Status.NOT_FOUND, "known: pacs, silent"),
        (["models", "show", "nobody"], Status.NOT_FOUND, "no model package"),
        (["echo", "silent"], Status.TRY_AGAIN, "127.0.0.1"),
        (["pull"], Status.MISUSED, "give one of"),
        (["show"], Status.MISUSED, "Missing argument"),
        (["status", "--state", "lost"], Status.MISUSED, "lost"),
        (["sing"], Status.MISUSED, "sing"),
    ],
)
def test_errors_are_a_sentence_a_status_and_an_object(
    site: Site, capsys: pytest.CaptureFixture[str], arguments: list[str], status: Status, says: str
) -> None:
    assert site.run(*arguments, "--json") == status
    told = capsys.readouterr()
    error = json.loads(told.out)["error"]
    assert says in told.err and says in error["text"]
    assert (error["status"], error["kind"]) == (status, status.name.lower())
    assert site.run(*arguments) == status
    assert capsys.readouterr().out == ""


def test_each_kind_of_error_has_its_status() -> None:
    kinds = {
        NodeError("x"): 1,
        PermanentError("x"): 1,
        ConfigError("x"): 2,
        NotFound("x"): 3,
        TransientError("x"): 4,
        LowDisk("x"): 4,
    }
    assert {type(error): cli_exit.status_of(error) for error in kinds} == {
        type(error): status for error, status in kinds.items()
    }
    assert set(cli_exit.MEANINGS) == set(Status)


def test_status_answers_without_loading_what_it_does_not_need(site: Site) -> None:
    code = (
        "import sys; from dicom_node.__main__ import main\n"
        "try: main()\n"
        "finally: print(*(name for name in sys.modules if '.' not in name), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "status", "--json", "--config", str(site.config)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert {"dicom_node", "sqlalchemy"} <= loaded
    assert not loaded & {"alembic", "httpx", "numpy", "pydicom", "pynetdicom", "scipy", "torch"}


def test_status_of_a_node_whose_disk_is_gone_and_whose_ledger_is_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path / 'elsewhere.sqlite'}"
    Ledger(url).close()
    config = tmp_path / "config.toml"
    config.write_text(tomli_w.dumps({"node": {"state_dir": str(tmp_path / "gone"), "database": url}}))
    assert cli_exit.run(cli.app, ["status", "--config", str(config)], "dicomnode") == Status.TRY_AGAIN
    assert capsys.readouterr().err == f"{tmp_path / 'gone'}: the disk does not answer: No such file or directory\n"


@pytest.mark.parametrize("kinds", [["disk"], ["failures"], None])
def test_only_what_is_still_to_be_told_waits(tmp_path: Path, kinds: list[str] | None) -> None:
    """Not what a channel was to be told that config.toml has no more, or of other kinds only."""
    with closing(Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")) as ledger:
        message = trial(START)
        ledger.keep_notice(Notice("hook", "disk", message=message, error="refuses the connection"), START)
    hook = {"by": "webhook", "name": "hook", "url": "http://127.0.0.1:1", "kinds": kinds}
    settings = {"node": {"state_dir": str(tmp_path)}, "notifications": [hook] if kinds else []}
    config = tmp_path / "config.toml"
    config.write_text(tomli_w.dumps(settings))
    waits = ["hook: refuses the connection"] if kinds == ["disk"] else []
    assert cli_status.overview(config, "", (), 1).untold == waits


def test_piped_tables_are_plain_and_their_lines_whole(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.run([PROGRAM, "status", "-c", site.config], capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout
    assert any(SERIES in line.split() for line in done.stdout.splitlines())
    monkeypatch.setenv("NO_COLOR", "1")
    console = Console(file=io.StringIO(), force_terminal=True)
    console.print("[red]failed[/]")
    assert isinstance(console.file, io.StringIO) and console.file.getvalue() == "failed\n"


@pytest.mark.parametrize("json_too", [False, True])
def test_watching_into_a_pipe_gives_one_answer_after_the_other(site: Site, json_too: bool) -> None:
    looks: list[cli_status.Overview] = []

    def look() -> cli_status.Overview:
        looks.append(cli_status.overview(site.config, "", (), 5))
        return looks[-1]

    console = Console(file=io.StringIO(), width=300)
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr("typer.echo", said.append)
        cli_status.follow(console, look, json_too, lambda: len(looks) == 3)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert len(looks) == 3
    if json_too:
        assert [json.loads(line)["set_aside"] for line in said] == [0, 0, 0] and not any("\n" in x for x in said)
    else:
        assert text.count(SERIES) == 3 and "\x1b" not in text


@pytest.mark.parametrize("kind", ["json", "table", "terminal"])
def test_watching_goes_on_when_the_database_is_away_for_a_while(
    site: Site, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    looks = iter([TransientError("the database [is] away"), cli_status.overview(site.config, "", (), 5)])
    pauses = iter([False, True])

    def look() -> cli_status.Overview:
        seen = next(looks)
        if isinstance(seen, TransientError):
            raise seen
        return seen

    console = Console(file=io.StringIO(), width=300, force_terminal=kind == "terminal")
    cli_status.follow(console, look, kind == "json", lambda: next(pauses))
    assert isinstance(console.file, io.StringIO)
    shown, told = console.file.getvalue(), capsys.readouterr()
    if kind == "json":
        error, answer = map(json.loads, told.out.splitlines())
        assert (error["error"]["status"], answer["set_aside"]) == (Status.TRY_AGAIN, 0)
    else:
        assert SERIES in shown and told.out == ""
    assert "the database [is] away" in (shown if kind == "terminal" else told.err)


def test_an_error_of_watching_is_one_line_of_json(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """Such as that of a state folder that cannot be looked into; here its name is too long."""
    config = site.folder / "unreadable.toml"
    config.write_text(tomli_w.dumps({"node": {"state_dir": f"/{'x' * 300}"}}))
    command = ["status", "--watch", "--json", "--config", str(config)]
    assert cli_exit.run(cli.app, command, "dicomnode") == Status.FAILED
    (line,) = capsys.readouterr().out.splitlines()
    assert "cannot be read: File name too long" in json.loads(line)["error"]["text"]


def test_watching_on_a_terminal_ends_cleanly_by_ctrl_c(site: Site) -> None:
    ours, theirs = pty.openpty()
    command = [PROGRAM, "status", "--watch", "--every", "0.1", "-c", site.config]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a suite in the background may ignore it
    process = subprocess.Popen(
        command,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env=environment,
        preexec_fn=heeds,
    )
    os.close(theirs)
    shown = b""
    while shown.count(b"Ctrl-C ends") < 2:  # drawn, and drawn again
        shown += os.read(ours, 4096)
    process.send_signal(signal.SIGINT)
    try:
        while more := os.read(ours, 4096):
            shown += more
    except OSError:  # the other end is closed
        pass
    _, complaints = process.communicate()
    os.close(ours)
    assert (process.returncode, complaints) == (0, b"")
    assert shown.endswith(b"\x1b[?25h\x1b[?1049l")  # cursor and screen are given back


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("dicomnode echo ", ["pacs", "silent"]),
        ("dicomnode echo p", ["pacs"]),
        ("dicomnode show ", [SERIES]),
        ("dicomnode pull --source ", ["old"]),
        ("dicomnode rec", ["reconcile"]),
    ],
)
def test_the_shell_completes_names_and_uids(site: Site, words: str, offered: list[str]) -> None:
    environment = {
        **os.environ,
        cli_common.CONFIG_VARIABLE: str(site.config),
        "_DICOMNODE_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    done = subprocess.run([PROGRAM], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == offered
    environment[cli_common.CONFIG_VARIABLE] = "/nowhere.toml"
    silent = subprocess.run([PROGRAM], env=environment, capture_output=True, text=True)
    assert silent.stderr == "" and (silent.stdout.strip() == "" or "rec" in words)
