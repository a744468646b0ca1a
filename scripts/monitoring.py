"""Writes the tables of docs/monitoring.md from code and alert rules: python -m scripts.monitoring [--check].

A table stands between `<!-- begin NAME -->` and `<!-- end NAME -->`, as in docs/conformance.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from dicom_node.failure_classes import CLASSES
from dicom_node.metrics_families import FAMILIES
from scripts.conformance import rendered, table

FOLDER = Path(__file__).parents[1] / "docs"
PAGE = FOLDER / "monitoring.md"
ALERTS = FOLDER / "monitoring" / "alerts.yml"


def rules() -> list[dict[str, Any]]:
    """The alert rules."""
    content = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))
    return [rule for group in content["groups"] for rule in group["rules"]]


def _metrics() -> str:
    rows = ((f"`{f.exposed}`", f.kind, ", ".join(f"`{label}`" for label in f.labels), f.text) for f in FAMILIES)
    return table(("metric", "kind", "labels", "what it is"), rows)


def _failures() -> str:
    rows = (
        (subject, state, ", ".join(f"`{name}`" for name in names)) for (subject, state), names in CLASSES.items()
    )
    return table(("subject", "ended as", "classes"), rows)


def _alerts() -> str:
    def rows() -> Iterator[tuple[str, str, str, str]]:
        for rule in rules():
            condition = " ".join(rule["expr"].split())
            after = f", for {rule['for']}" if "for" in rule else ""
            yield rule["alert"], rule["labels"]["severity"], f"`{condition}`{after}", rule["annotations"]["remedy"]

    return table(("alert", "severity", "when", "remedy"), rows())


TABLES: Mapping[str, Callable[[], str]] = {"metrics": _metrics, "failures": _failures, "alerts": _alerts}


def main() -> int:
    """Write, or with --check only compare."""
    made, changed = rendered(PAGE.read_text(encoding="utf-8"), TABLES)
    if "--check" in sys.argv:
        print("\n".join(changed))
        return 1 if changed else 0
    PAGE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
