"""Writes the evaluation of the shipped package into docs/results.md: python scripts/results.py [NAME …].

The data lie in $DICOMNODE_SHARED/data/covid, default ../shared/data/covid. A text between `<!-- NAME -->` and
`<!-- /NAME -->` is replaced; the pages themselves are kept below build/results/NAME.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "results.md"
RUNS = {
    "medseg-train": ["--cohort", "DATA/medseg-train"],
    "volumes": ["--cohort", "DATA/volumes", "--labels", "pseudo-label"],
    "volumes-repeated": ["--cohort", "DATA/volumes", "--labels", "pseudo-label", "--repeated"],
}
TABLES = {  # by how their titles begin; the volumes have no labels of consolidation
    "medseg-train": ("Dice", "Lungs", "Scores", "Cases", "Severity", "By site"),
    "volumes": ("Dice", "Lungs", "Scores", "Severity"),
    "volumes-repeated": ("Dice",),
}


def main(names: list[str]) -> None:
    """Evaluate, then write the document once."""
    blocks = {name: block(name) for name in names or RUNS}
    text = DOCUMENT.read_text(encoding="utf-8")
    for name, new in blocks.items():
        text = replaced(text, name, new)
    DOCUMENT.write_text(text, encoding="utf-8")


def block(name: str) -> str:
    """The command, the package it ran and the tables it gave."""
    out = ROOT / "build" / "results" / name
    options = [*RUNS[name], "--out", str(out.relative_to(ROOT))]
    data = Path(os.environ.get("DICOMNODE_SHARED", ROOT.parent / "shared")) / "data" / "covid"
    command = [str(Path(sys.executable).with_name("dicomnode-train")), "evaluate"]
    subprocess.run([*command, *(word.replace("DATA", str(data), 1) for word in options)], check=True, cwd=ROOT)  # noqa: S603
    tables = (out / "summary.md").read_text(encoding="utf-8").strip().split("\n\n\n")
    wanted = [table for table in tables if table.startswith(TABLES[name])]
    return "\n\n".join((f"```sh\ndicomnode-train evaluate {shlex.join(options)}\n```", model(out), *wanted))


def model(out: Path) -> str:
    """Which package made these figures."""
    found = json.loads((out / "metrics.json").read_text(encoding="utf-8"))["model"]
    return f"Package {found['name']} {found['version']}, SHA-256 `{found['digest']}`."


def replaced(text: str, name: str, new: str) -> str:
    """The text with what stands between the marks of `name` replaced."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, rest = text.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n{new}\n{end}{after}"


if __name__ == "__main__":
    main(sys.argv[1:])
