"""The unit as systemd reads it: every line is understood, and the sandbox is as tight as the comments say."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dicom_node.resources import systemd_folder
from tests.fixtures.served import Served

MOST_EXPOSED = 2.0  # systemd-analyze's scale: 0 is sealed, 10 is open


SERVICES = ("dicomnode.service", "dicomnode-reconcile.service")


def rendered(folder: Path, name: str) -> Path:
    """A unit with an ExecStart and a user that exist here: verify wants both."""
    text = (systemd_folder() / name).read_text()
    text = text.replace("/opt/dicomnode/bin/dicomnode", str(Path(sys.executable).with_name("dicomnode")))
    text = text.replace("User=dicomnode", "User=daemon").replace("Group=dicomnode", "Group=daemon")
    path = folder / name
    path.write_text(text)
    return path


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    return rendered(tmp_path, "dicomnode.service")


def verify(tool: Callable[[str], str], *units: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tool("/usr/bin/systemd-analyze"), "verify", "--man=no", *map(str, units)], capture_output=True, text=True
    )


def understood(tool: Callable[[str], str], unit: Path) -> None:
    done = verify(tool, unit)
    complaints = [line for line in done.stderr.splitlines() if "dicomnode" in line]
    assert done.returncode == 0 and complaints == []


@pytest.mark.parametrize("name", SERVICES)
def test_systemd_understands_every_line(tmp_path: Path, tool: Callable[[str], str], name: str) -> None:
    understood(tool, rendered(tmp_path, name))


def test_the_timer_starts_the_comparison_every_night(tmp_path: Path, tool: Callable[[str], str]) -> None:
    timer = rendered(tmp_path, "dicomnode-reconcile.timer")
    done = verify(tool, timer, rendered(tmp_path, "dicomnode-reconcile.service"))
    assert done.returncode == 0 and "dicomnode" not in done.stderr
    (when,) = re.findall(r"^OnCalendar=(.*)$", timer.read_text(), re.MULTILINE)
    calendar = [tool("/usr/bin/systemd-analyze"), "calendar", "--iterations=2", when]
    shown = subprocess.run(calendar, capture_output=True, text=True, check=True).stdout
    assert len(re.findall(r"02:30:00", shown)) >= 2


def test_the_command_of_the_nightly_service_is_one_that_exists(tmp_path: Path) -> None:
    (line,) = re.findall(
        r"^ExecStart=(.*)$", rendered(tmp_path, "dicomnode-reconcile.service").read_text(), re.MULTILINE
    )
    command = line.replace("/etc/dicomnode/config.toml", str(tmp_path / "absent.toml")).split()
    done = subprocess.run(command, capture_output=True, text=True)
    assert "absent.toml: cannot be read" in done.stderr  # every option was understood


def test_a_wrong_line_would_be_seen(unit: Path, tool: Callable[[str], str]) -> None:
    unit.write_text(unit.read_text().replace("WatchdogSec=60", "WatchdogSec=often"))
    done = verify(tool, unit)
    assert "often" in done.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_the_sandbox_is_tight(tmp_path: Path, tool: Callable[[str], str], name: str) -> None:
    done = subprocess.run(
        [
            tool("/usr/bin/systemd-analyze"),
            "security",
            "--offline=true",
            "--no-pager",
            str(rendered(tmp_path, name)),
        ],
        capture_output=True,
        text=True,
    )
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert exposure is not None, done.stdout + done.stderr
    assert float(exposure.group(1)) <= MOST_EXPOSED


def test_the_service_says_when_it_is_ready_alive_and_stopping(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60)
        node = Served(tmp_path / "node")
        node.environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        port = node.start()
        try:
            assert systemd.recv(1000) == f"READY=1\nSTATUS=DICOMNODE on port {port}".encode()
            assert systemd.recv(1000) == b"WATCHDOG=1"
        finally:
            assert node.stop() == 0
        messages = {systemd.recv(1000)}
        while b"STOPPING=1" not in messages:
            messages.add(systemd.recv(1000))
        assert messages <= {b"WATCHDOG=1", b"STOPPING=1"}


def test_settings_that_break_torch_or_hide_the_gpu_are_absent() -> None:
    text = (systemd_folder() / "dicomnode.service").read_text()
    active = [line for line in text.splitlines() if not line.startswith("#")]
    assert not [line for line in active if re.match(r"(MemoryDenyWriteExecute|PrivateDevices|ProcSubset)=", line)]
    # As the driver calls its GPUs in /proc/devices: before 550 and since then.
    assert {"DeviceAllow=char-nvidia-frontend rw", "DeviceAllow=char-nvidia rw"} <= set(active)


def test_the_state_folder_is_all_that_can_be_written() -> None:
    text = (systemd_folder() / "dicomnode.service").read_text()
    active = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    assert active["ProtectSystem"] == "strict" and active["ProtectHome"] == "yes" and active["PrivateTmp"] == "yes"
    assert active["StateDirectory"] == "dicomnode" and active["StateDirectoryMode"] == "0700"
    assert active["CapabilityBoundingSet"] == active["AmbientCapabilities"] == ""
    others = {"ReadWritePaths", "CacheDirectory", "LogsDirectory", "RuntimeDirectory", "BindPaths"}
    assert others.isdisjoint(active)


def test_the_lines_for_secrets_are_understood_when_they_are_wanted(unit: Path, tool: Callable[[str], str]) -> None:
    text = unit.read_text()
    assert text.count("#LoadCredential=") == 2
    unit.write_text(text.replace("#LoadCredential=", "LoadCredential="))
    understood(tool, unit)
