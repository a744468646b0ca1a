"""The Debian package, built without its dependencies: what is in it, and how it is installed, upgraded, removed.

It is installed below another root; `apt` and a running systemd have no part in it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
Tool = Callable[[str], str]
UNITS = ["dicomnode.service", "dicomnode-reconcile.timer"]


def done(*command: str | Path, **environment: str) -> str:
    """Standard output; fails with what was said."""
    finished = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, tool: Tool) -> Path:
    tool("/usr/bin/dpkg-deb")
    tool("/usr/bin/python3.11")
    out = tmp_path_factory.mktemp("deb")
    done("scripts/deb.sh", "--without-dependencies", OUT=str(out))
    (path,) = out.glob("dicomnode_*.deb")
    return path


class Machine:
    """A folder that dpkg takes for the root of a system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "var/lib/dpkg/updates").mkdir(parents=True)
        (root / "var/lib/dpkg/info").mkdir()
        (root / "var/lib/dpkg/status").touch()

    def dpkg(self, *arguments: str | Path, **environment: str) -> str:
        """Scripts see the folder as DPKG_ROOT; the dependencies are those of the machine that tests."""
        options = ("--force-script-chrootless", "--force-depends", "--force-confold", f"--log={self.root}/log")
        return done("dpkg", f"--root={self.root}", *options, *arguments, **environment)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(tmp_path_factory.mktemp("root"))


def test_what_is_in_it(package: Path) -> None:
    names = {line.split()[5]: line for line in done("dpkg-deb", "-c", package).splitlines()}
    for name in (
        "./lib/systemd/system/dicomnode.service",
        "./usr/lib/sysusers.d/dicomnode.conf",
        "./usr/lib/tmpfiles.d/dicomnode.conf",
        "./usr/share/bash-completion/completions/dicomnode",
        "./usr/bin/dicomnode",
    ):
        assert "root/root" in names[name]
    assert "/opt/dicomnode/bin/dicomnode" in names["./usr/bin/dicomnode"]
    assert done("dpkg-deb", "-I", package, "conffiles").split() == ["/etc/dicomnode/config.toml"]


def test_nothing_in_it_names_the_folder_that_it_was_made_in(package: Path, tmp_path: Path) -> None:
    done("dpkg-deb", "-x", package, tmp_path)
    scripts = tmp_path / "opt" / "dicomnode" / "bin"
    assert (scripts / "dicomnode").read_text().startswith("#!/opt/dicomnode/bin/python")
    assert (scripts / "python").resolve() == Path("/usr/bin/python3.11").resolve()
    found = subprocess.run(["grep", "-rlE", "/tmp/|/root/", tmp_path / "opt"], capture_output=True, text=True)
    assert found.stdout == ""


@pytest.mark.parametrize("outcome", ["configure", "abort-upgrade"])
@pytest.mark.parametrize("ran", [[], ["dicomnode-reconcile.timer"], UNITS])
def test_what_ran_before_an_upgrade_runs_after_it(tmp_path: Path, outcome: str, ran: list[str]) -> None:
    """The scripts alone, on a systemd that is a folder with a file for each active unit."""
    active, programs = tmp_path / "active", tmp_path / "bin"
    for folder in (active, programs, tmp_path / "run/systemd/system"):
        folder.mkdir(parents=True)
    for name, said in {
        "systemctl": f'[ "$2" != is-active ] || [ -e {active}/"$3" ]',
        "deb-systemd-invoke": f'cd {active}; case $1 in start) shift; touch "$@";; stop) shift; rm -f "$@";; esac',
        "systemd-sysusers": "",
        "systemd-tmpfiles": "",
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{said}\n")
        (programs / name).chmod(0o755)

    def script(name: str, *arguments: str) -> None:
        text = (ROOT / "packaging/deb" / name).read_text().replace("/run/", f"{tmp_path}/run/")
        done("sh", "-c", text, name, *arguments, PATH=f"{programs}:{os.environ['PATH']}", DPKG_ROOT="")

    for unit in ran:
        (active / unit).touch()
    script("prerm", "upgrade", "2")
    assert not list(active.iterdir())
    script("prerm", "upgrade", "2")  # once more, after a postinst that failed
    script("postinst", outcome, "1")
    assert sorted(path.name for path in active.iterdir()) == sorted(ran)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["systemd"]


def test_lintian_has_no_errors(package: Path, tool: Tool) -> None:
    told = done(tool("/usr/bin/lintian"), "--allow-root", "--no-cfg", "--fail-on=error", package)
    assert "E: " not in told


def test_installed_upgraded_removed_purged(package: Path, machine: Machine) -> None:
    """In one go, because each step stands on the one before."""
    config, state = machine.root / "etc/dicomnode/config.toml", machine.root / "var/lib/dicomnode"
    assert "systemctl enable --now dicomnode" in machine.dpkg("-i", package)
    (user,) = [line for line in (machine.root / "etc/passwd").read_text().splitlines() if "dicomnode" in line]
    _, _, uid, gid, _, home, shell = user.split(":")
    assert (home, shell) == ("/var/lib/dicomnode", "/usr/sbin/nologin") and 0 < int(uid) < 1000
    assert (state.stat().st_mode & 0o777, state.stat().st_uid) == (0o700, int(uid))
    folder = config.parent.stat()
    assert (folder.st_mode & 0o777, folder.st_uid, folder.st_gid) == (0o750, 0, int(gid))

    config.write_text('[node]\nae_title = "OURS"\n')
    (state / "ledger.sqlite").write_text("rows")
    machine.dpkg("-i", package)
    assert "OURS" in config.read_text()

    machine.dpkg("-r", "dicomnode")
    assert config.is_file() and (state / "ledger.sqlite").is_file()
    assert not (machine.root / "opt/dicomnode/bin/dicomnode").exists()

    assert "patient data" in machine.dpkg("-P", "dicomnode")
    assert not config.exists() and (state / "ledger.sqlite").read_text() == "rows"

    machine.dpkg("-i", package)
    machine.dpkg("-P", "dicomnode", DICOMNODE_PURGE_DATA="yes")
    assert not state.exists()
