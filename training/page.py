"""The evaluation as one self-contained HTML page: no scripts, no links to the outside, images inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

from matplotlib.figure import Figure

from training.captions import POLICY, Caption
from training.tables import key_figures, tables

DPI = 130
BANNER = "Research use only. Not a medical device, not for diagnostic use. It measures opacity, not its cause."
PAPER = (
    "Figures 2 to 7 are numbered as in the paper and made anew for this cohort: Wu, Gong et al., IEEE JBHI 24(12), "
    "2020, doi 10.1109/JBHI.2020.3030224."
)
STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #1f2933; background: #fff;
  max-width: 68rem; margin: 0 auto; padding: 0 1.5rem 4rem; }
.banner { background: #fff4d6; border: 1px solid #d9a400; border-radius: .4rem; padding: .6rem 1rem;
  font-weight: 600; position: sticky; top: 0; z-index: 1; }
h1 { margin: 1.2rem 0 .2rem; } h2 { margin: 2.5rem 0 .6rem; border-bottom: 1px solid #d5dae1; }
p.sub { color: #52606d; margin-top: 0; }
table { border-collapse: collapse; font-size: .86rem; margin: 1.2rem 0; width: 100%; }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
th, td { text-align: right; padding: .3rem .5rem; border-bottom: 1px solid #e4e8ee; vertical-align: top; }
thead th { color: #52606d; font-weight: 600; vertical-align: bottom; } th:first-child { text-align: left; }
tbody th { font-weight: 500; } td { white-space: nowrap; font-variant-numeric: tabular-nums; }
.key { list-style: none; display: flex; flex-wrap: wrap; gap: .8rem; padding: 0; }
.key li { flex: 1 1 11rem; background: #f5f7fa; border-radius: .4rem; padding: .6rem .9rem; color: #52606d; }
.key b { display: block; font-size: 1.5rem; color: #1f2933; } .key small { display: block; }
figure { margin: 1.5rem 0 2.5rem; } img { max-width: 100%; height: auto; display: block; margin: 0 auto; }
figcaption { font-size: .93rem; background: #f5f7fa; border-left: 4px solid #9aa5b1; padding: .6rem 1rem;
  margin-top: .6rem; }
figcaption b { display: block; } .how { color: #3e4c59; } dt { font-weight: 600; } dd { margin: 0 0 .5rem 1.2rem; }
.scroll { overflow-x: auto; } code { overflow-wrap: anywhere; }
@media print { .banner { position: static; } figure, table { break-inside: avoid; } body { max-width: none; } }
"""


def page(
    title: str,
    run: Sequence[tuple[str, str]],
    metrics: dict[str, Any],
    gallery: Sequence[tuple[Caption, Figure]],
) -> str:
    """The page. `run`: what was run on what, as (name, words)."""
    facts = "".join(f"<dt>{escape(name)}</dt><dd><code>{escape(words)}</code></dd>" for name, words in run)
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p class='sub'>{escape(_summary(metrics))}</p>",
        _key(metrics),
        _left_out(metrics),
        "<h2>Figures in numbers</h2>",
        *(f"<div class='scroll'>{table.html()}</div>" for table in tables(metrics)),
        "<h2>How it was counted</h2><ul>",
        *(f"<li>{escape(rule)}</li>" for rule in POLICY),
        "</ul><h2>Figures</h2>",
        f"<p>{PAPER}</p>",
        *(_picture(caption, figure) for caption, figure in gallery),
        f"<h2>What was run</h2><dl>{facts}</dl>",
        "<p>Beside this page: <code>cases.csv</code>, every case; <code>metrics.json</code>, every number.</p>",
    ]
    return (
        f"<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'><title>{escape(title)}</title>"
        f"<meta name='viewport' content='width=device-width, initial-scale=1'><style>{STYLE}</style></head>"
        f"<body><div class='banner' role='note'>{BANNER}</div><main>{''.join(parts)}</main></body></html>\n"
    )


def _picture(caption: Caption, figure: Figure) -> str:
    """A figure with its caption and the image inside."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=DPI)
    data = base64.b64encode(image.getvalue()).decode()
    words = f"<b>{escape(caption.name)}</b>{escape(caption.what)} <span class='how'>{escape(caption.how)}</span>"
    alt = escape(" ".join(f"{caption.name}. {caption.what}".split()), quote=True)
    return f'<figure><img alt="{alt}" src="data:image/png;base64,{data}"><figcaption>{words}</figcaption></figure>'


def _summary(metrics: dict[str, Any]) -> str:
    of = metrics["cohort"]
    return (
        f"{of['cases']} cases of {of['patients']} patients, {of['single_slices']} of them single slices; "
        f"{of['labelled']} with pixel labels, {of['labels_tell_consolidation']} of these tell consolidation "
        "from other infection."
    )


def _key(metrics: dict[str, Any]) -> str:
    """The figures to look at first."""
    items = [
        f"<li><b>{value}</b>{words}<small>95 % CI {interval}</small></li>"
        for words, value, interval in key_figures(metrics)
    ]
    return f"<ul class='key'>{''.join(items)}</ul>"


def _left_out(metrics: dict[str, Any]) -> str:
    """Names every case that is not in every figure, with the reason."""
    of = metrics["cohort"]
    lines = [
        f"No lungs found in {name}: {why}. It counts as one in which nothing was found."
        for name, why in of["without_lungs"].items()
    ]
    for words, names in (
        ("Without pixel labels, so in no Dice figure", of["without_pixel_labels"]),
        ("Labels do not tell consolidation, so infection only", of["labels_do_not_tell_consolidation"]),
        ("Not known whether there is consolidation, so not in figures 3 and 7", metrics["mann_whitney"]["unknown"]),
        ("No lungs and so no reference score, not in figure 2", metrics["severity"]["left_out"]),
    ):
        if names:
            lines.append(f"{words} ({len(names)}): {', '.join(names)}.")
    if not lines:
        return "<p>Every case is in every figure.</p>"
    return (
        "<h2>Cases that are not in every figure</h2><ul>"
        + "".join(f"<li>{escape(x)}</li>" for x in lines)
        + "</ul>"
    )
