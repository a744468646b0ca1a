"""The tables of an evaluation, from its metrics: shown on the page as HTML and in documents as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from training.figures import p_value

WORDS = {
    "infection": "infection, UNet-1",
    "consolidation": "consolidation, UNet-2",
    "threshold": "consolidation, rival: HU > −200 inside the predicted infection",
}
ABSENT = "–"


@dataclass(frozen=True)
class Table:
    """Cells are plain text; the first column names the row."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def html(self) -> str:
        """As an HTML table; everything is escaped."""
        head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in self.header)
        body = "".join(f"<tr>{_row(row)}</tr>" for row in self.rows)
        caption = f"<caption>{escape(self.title)}</caption>"
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def markdown(self) -> str:
        """As a Markdown table under its title."""
        lines = [self.header, ("---",) * len(self.header), *self.rows]
        return f"{self.title}:\n\n" + "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _row(row: tuple[str, ...]) -> str:
    return f'<th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def number(value: float | None, form: str = ".3f") -> str:
    """A figure, or a dash where there is none."""
    return ABSENT if value is None else format(value, form).replace("-", "−")


def between(interval: Sequence[float | None] | None, form: str = ".3f") -> str:
    """An interval."""
    if interval is None:
        return ABSENT
    return " … ".join(number(value, form) for value in interval)


def with_interval(of: dict[str, Any], name: str, form: str = ".3f") -> str:
    """value (low … high)."""
    interval = of.get(f"{name}_ci")
    return number(of.get(name), form) + (f" ({between(interval, form)})" if interval else "")


def key_figures(metrics: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(what, value, 95 % interval) of the figures to look at first."""
    entries = [
        ("infection Dice, mean per case", metrics["infection"], "dice_case_mean"),
        ("consolidation Dice, mean per case", metrics["consolidation"], "dice_case_mean"),
        ("severity, Pearson r", metrics["severity"], "pearson_r"),
        ("consolidation score, AUC", metrics["mann_whitney"], "auc"),
        ("of labelled infection inside the lungs", metrics["lungs"], "infection_inside"),
    ]
    return [(words, number(of.get(name)), between(of.get(f"{name}_ci"))) for words, of, name in entries]


def tables(metrics: dict[str, Any]) -> list[Table]:
    """Every table, in the order of the page."""
    made = [_dice(metrics), _lungs(metrics), _scores(metrics), _mann_whitney(metrics), _classes(metrics)]
    return [*made, _sites(metrics["sites"])] if "sites" in metrics else made


def _dice(metrics: dict[str, Any]) -> Table:
    rows = []
    for name, words in WORDS.items():
        one = metrics[name]
        clipped = one.get("clipped_by_lungs", {})
        rows.append(
            (
                words,
                str(one["cases"]),
                with_interval(one, "dice_case_mean"),
                number(one["dice_case_sd"]),
                number(one["dice_case_median"]),
                with_interval(one, "dice_pooled"),
                number(one["dice_case_mean_of_labelled"]),
                f"{number(clipped.get('dice_case_mean'))} / {number(clipped.get('dice_pooled'))}",
            )
        )
    gap = metrics["consolidation_minus_threshold"]
    signed = [with_interval(gap, name, "+.3f") for name in ("dice_case_mean", "dice_pooled")]
    rows.append(("UNet-2 minus rival, paired", "", signed[0], "", "", signed[1], "", ""))
    header = ("Dice", "cases", "mean per case (95 % CI)", "SD", "median", "pooled (95 % CI)")
    return Table(
        "Dice, labels not clipped by the lungs",
        (*header, "mean where labelled", "labels clipped by the lungs: mean / pooled"),
        tuple(rows),
    )


def _lungs(metrics: dict[str, Any]) -> Table:
    lungs = metrics["lungs"]
    rows = [
        (f"{figure} voxels inside the lungs", with_interval(lungs, f"{figure}_inside"))
        for figure in ("infection", "consolidation")
    ]
    rows.append(("cases in which no lungs were found", str(lungs["cases_without_lungs"])))
    return Table("Lungs: what they leave to be found", ("of the expert's labels", "share (95 % CI)"), tuple(rows))


def _scores(metrics: dict[str, Any]) -> Table:
    rows = []
    for name, words in (("severity", "severity: infected / lung"), ("consolidation_score", "consolidation / lung")):
        one = metrics[name]
        rows.append(
            (
                words,
                str(one["cases"]),
                with_interval(one, "pearson_r"),
                between(one.get("pearson_r_ci_fisher")),
                number(one["bias"], "+.1%"),
                between(one["limits_of_agreement"], "+.1%"),
            )
        )
    header = ("score", "cases", "Pearson r (95 % CI, bootstrap)", "95 % CI, Fisher", "bias", "limits of agreement")
    return Table("Scores against the expert's labels", header, tuple(rows))


def _mann_whitney(metrics: dict[str, Any]) -> Table:
    rows = []
    for key, words in (("mann_whitney", "UNet-2"), ("mann_whitney_threshold", "rival: HU > −200")):
        one = metrics[key]
        groups = [
            f"{group['cases']}: {number(group['mean'], '.2%')} / {number(group['median'], '.2%')}"
            for group in (one["positive"], one["negative"])
        ]
        tests = [ABSENT if one[key] is None else p_value(one[key]) for key in ("p_two_sided", "p_one_sided")]
        rows.append((words, *groups, number(one["u"], ".1f"), with_interval(one, "auc"), *tests))
    header = ("consolidation score", "with, n: mean / median", "without, n: mean / median", "U", "AUC (95 % CI)")
    return Table(
        "Cases with against cases without consolidation (Mann-Whitney)",
        (*header, "p two-sided", "p one-sided (with > without)"),
        tuple(rows),
    )


def _classes(metrics: dict[str, Any]) -> Table:
    severity = metrics["severity"]
    rows = [
        (f"expert {name}", *map(str, row))
        for name, row in zip(severity["classes"], severity["class_table"], strict=True)
    ]
    agreement, kappa = number(severity["class_agreement"], ".0%"), number(severity["class_kappa_linear"], ".2f")
    title = f"Severity classes, cases (agreement {agreement}, linear weighted kappa {kappa})"
    return Table(title, ("severity", *(f"pipeline {name}" for name in severity["classes"])), tuple(rows))


def _sites(sites: dict[str, Any]) -> Table:
    rows = []
    for site, one in sites.items():
        figures = [f"{number(one[name]['dice_case_mean'])} / {number(one[name]['dice_pooled'])}" for name in WORDS]
        inside = [number(one["lungs"][f"{name}_inside"]) for name in ("infection", "consolidation")]
        rest = [number(one["severity"]["pearson_r"]), number(one["mann_whitney"]["auc"])]
        rows.append((site, str(one["infection"]["cases"]), *figures, " / ".join(inside), *rest))
    header = (
        "site",
        "labelled cases",
        "infection",
        "consolidation",
        "rival",
        "inside the lungs",
        "severity r",
        "AUC",
    )
    return Table(
        "By site: Dice mean per case / pooled, shares of infection / consolidation inside", header, tuple(rows)
    )
