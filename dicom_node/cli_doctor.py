"""`dicomnode doctor`: the command, and how its findings are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from dicom_node import config as configuration
from dicom_node import console as show
from dicom_node.cli_common import DEFAULT_CONFIG, FAILED, ConfigOption, JsonOption, stdout
from dicom_node.findings import Finding, Grade, worst

GRADES: Mapping[Grade, tuple[str, str]] = {
    Grade.OK: ("ok", "green"),
    Grade.REMARK: ("remark", "yellow"),
    Grade.FAULT: ("FAULT", "bold red"),
}


def doctor(
    config: ConfigOption = DEFAULT_CONFIG,
    analysis: Annotated[bool, typer.Option(help="analyse a synthetic chest CT, and say how long it takes")] = True,
    json: JsonOption = False,
) -> None:
    """Find what is wrong on site: this machine, the ports, every peer both ways, the networks.

    Exit status 0: nothing is wrong, though there may be remarks; 1: something does not work; 2: wrong config.

    JSON: grade, findings, each with check, grade, text, remedy.

    Example: dicomnode doctor --no-analysis
    """
    from dicom_node import checkup

    console, findings = stdout(), list[Finding]()
    for finding in checkup.examine(configuration.load(config), datetime.now(UTC), analysis):
        findings.append(finding)
        if not json:
            show_finding(console, finding)
    grade = worst(findings)
    if json:
        typer.echo(show.as_json({"grade": grade, "findings": findings}))
    else:
        show_grade(console, findings)
    if grade is Grade.FAULT:
        raise typer.Exit(FAILED)


def show_finding(console: Console, finding: Finding) -> None:
    """One line, and below it what to do."""
    mark, style = GRADES[finding.grade]
    console.print(f"[{style}]{mark:<7}[/] {escape(finding.check)}: {escape(finding.text)}", soft_wrap=True)
    if finding.remedy:
        console.print(f"        → {escape(finding.remedy)}", soft_wrap=True)


def show_grade(console: Console, findings: Sequence[Finding]) -> None:
    """How many there were of each."""
    counts = {grade: sum(finding.grade is grade for finding in findings) for grade in Grade}
    text = f"faults: {counts[Grade.FAULT]}, remarks: {counts[Grade.REMARK]}, checks passed: {counts[Grade.OK]}"
    console.print(text, style="bold", highlight=False)
