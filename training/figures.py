"""The paper's figures 2, 3, 4, 6 and 7 for a cohort, and Bland-Altman, as matplotlib figures.

No figure goes through pyplot: nothing is kept between calls and no display is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pipeline.preprocess import Preprocessing
from pipeline.subjects import DESCRIPTIONS, Subject
from training import curves, metrics
from training.judge import Cohort, Judged
from training.rates import DISTANCES, PRIOR_ALONE
from training.resample import Floats

UNET = "#D55E00"  # with the two below: Okabe and Ito 2008, told apart by colour-blind readers
RIVAL = "#0072B2"
GREY = "#6b7280"
LINES = ("#009E73", "#E69F00", "#D55E00", "#CC79A7", "#000000")
NAMES = {"consolidation": "UNet-2", "threshold": "HU > −200"}
COLOURS = {"consolidation": UNET, "threshold": RIVAL}
MARKS = {"consolidation": "o", "threshold": "s"}
STYLES = {"consolidation": "-", "threshold": "--"}
FPR_LEAST = 0.05  # the zoom of figure 4 shows at least so much
ZOOM_SHARE = 0.6  # the zoom shows this share of the cases …
ZOOM_LEAST = 0.02  # … and at least so much of the axis
JITTER = 0.12
PERCENT = FuncFormatter(lambda share, _: f"{100 * share:.3g} %".replace("-", "−"))
LINEAR_BELOW = 0.001  # of figure 7's axis, which is logarithmic above


def _figure(columns: int, width: float = 4.6, height: float = 4.2) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(width * columns, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(alpha=0.25, linewidth=0.6)
    return figure, axes


def _percent(axes: Axes, which: str = "xy") -> None:
    for axis in which:
        getattr(axes, f"{axis}axis").set_major_formatter(PERCENT)


def _empty(axes: Axes, words: str) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, words, ha="center", va="center", color=GREY, transform=axes.transAxes, wrap=True)


def scatter(judged: Sequence[Judged], figure_name: str, words: str) -> Figure:
    """Figure 2: score against reference, whole and zoomed, with the identity line."""
    figure, (whole, zoom) = _figure(2)
    used = metrics.scored(judged, figure_name)
    if not used:
        for axes in (whole, zoom):
            _empty(axes, "no case with labels and lungs")
        return figure
    true, found = _pairs(used, figure_name)
    top = max(float(true.max()), float(found.max()), ZOOM_LEAST) * 1.05
    near = min(top, max(float(np.quantile(np.maximum(true, found), ZOOM_SHARE)) * 1.1, ZOOM_LEAST))
    for axes, limit, title in ((whole, top, "all cases"), (zoom, near, "zoom on the low end")):
        axes.plot((0, limit), (0, limit), color=GREY, linewidth=1, linestyle="--", label="identity")
        _points(axes, used, true, found)
        axes.set(xlim=(-0.02 * limit, limit), ylim=(-0.02 * limit, limit), aspect="equal", title=title)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlabel(f"{words}, expert label")
        axes.set_ylabel(f"{words}, pipeline")
        _percent(axes)
    whole.add_patch(_frame(near))
    for text in whole.legend(loc="upper left", frameon=False, fontsize=8).get_texts():
        text.set_parse_math(False)  # names of sites are no formulas
    return figure


def _frame(limit: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((0, 0), limit, limit, fill=False, edgecolor=GREY, linewidth=0.8)


def _pairs(judged: Sequence[Judged], name: str) -> tuple[Floats, Floats]:
    return np.array([one.reference(name) for one in judged]), np.array([one.share(name) for one in judged])


def _points(axes: Axes, judged: Sequence[Judged], x: Floats, y: Floats) -> None:
    """One colour per site where sites are named."""
    sites = sorted({one.case.site for one in judged})
    for k, site in enumerate(sites):
        of = np.array([one.case.site == site for one in judged])
        label = (site or "(no site)") if len(sites) > 1 else "a case"
        axes.scatter(
            x[of], y[of], s=22, alpha=0.75, color=LINES[(k + 2) % len(LINES)], edgecolor="none", label=label
        )


def sweep(told: dict[str, Any], package_b2: float | None, limits: Preprocessing) -> Figure:
    """Figure 3: the E-step's labels by b₂ and k₂."""
    figure, (left, right) = _figure(2)
    b2 = np.array(told["b2"])
    for axes, key, words in (
        (left, "dice_pooled", "pooled Dice of the E-step's labels"),
        (right, "auc", "AUC of their share of the lungs"),
    ):
        if told[key] is None or not np.isfinite(np.array(told[key], float)).any():
            _empty(axes, "cases with and without consolidation are needed" if key == "auc" else "no labelled case")
            continue
        table = np.array(told[key], float)
        for k, k2 in enumerate(told["k2"]):
            alone = k2 == PRIOR_ALONE
            axes.plot(
                b2,
                table[:, k],
                color=LINES[k],
                linewidth=1.8,
                linestyle="--" if alone else "-",
                marker="" if alone else ".",
                label="without UNet-2: HU above b₂" if alone else f"k₂ = {k2:g}",
            )
        if package_b2 is not None:
            axes.axvline(package_b2, color=GREY, linewidth=1, linestyle=":", label=f"package: b₂ = {package_b2:g}")
        axes.set_xlabel("b₂, normalised (upper axis: HU)")
        axes.set_ylabel(words)
        axes.set_ylim(bottom=0.4 if key == "auc" and np.nanmin(table) > 0.4 else 0)
        _hu_axis(axes, limits)
        axes.legend(fontsize=8, frameon=False)
    return figure


def _hu_axis(axes: Axes, limits: Preprocessing) -> None:
    to_hu: Callable[[Any], Any] = lambda x: np.asarray(x) * limits.hu_per_unit + limits.hu_min  # noqa: E731
    from_hu: Callable[[Any], Any] = lambda hu: (np.asarray(hu) - limits.hu_min) / limits.hu_per_unit  # noqa: E731
    axes.secondary_xaxis("top", functions=(to_hu, from_hu))


def rates(cohort: Cohort, told: dict[str, Any]) -> Figure:
    """Figure 4: true against false positive rate of each case inside its labelled infection, with TPR = FPR^γ."""
    figure, panels = _figure(2)
    points = {name: curves.rate_points(cohort, name)[1:] for name in NAMES}
    if not any(len(fpr) for fpr, _ in points.values()):
        for axes in panels:
            _empty(axes, "no case with both consolidation and other infection among its labels")
        return figure
    near = min(1.0, 1.1 * max(FPR_LEAST, *(float(fpr.max(initial=0)) for fpr, _ in points.values())))
    for axes, limit, title in zip(panels, (1.0, near), ("all", "zoom on the low end"), strict=True):
        x = np.linspace(0, limit, 401)
        for name, (fpr, tpr) in points.items():
            colour_of, mark = COLOURS[name], MARKS[name]
            axes.scatter(fpr, tpr, 24, colour_of, marker=mark, alpha=0.7, edgecolor="none", label=NAMES[name])
            exponent = told[name]["gamma"]
            if exponent is not None:
                label = f"{NAMES[name]}: γ = {exponent:.2f}"
                axes.plot(x, x**exponent, color=colour_of, linestyle=STYLES[name], linewidth=1.8, label=label)
        axes.plot((0, limit), (0, limit), color=GREY, linewidth=1, linestyle=":", label="chance, γ = 1")
        axes.set(xlim=(-0.02 * limit, 1.02 * limit), ylim=(-0.02, 1.02), title=title)
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("true positive rate")
    panels[0].legend(fontsize=8, loc="lower right")
    return figure


def dilation(told: dict[str, Any]) -> Figure:
    """Figure 6: false positives that remain when the labelled consolidation is dilated."""
    figure, (axes,) = _figure(1, 5.8, 4.2)
    reach = np.arange(DISTANCES)
    for name, words in NAMES.items():
        values = np.array([np.nan if value is None else value for value in told[name]])
        axes.plot(reach, values, color=COLOURS[name], marker=MARKS[name], linewidth=1.8, label=words)
    axes.set_xlabel("dilation of the labelled consolidation, pixels of the network grid")
    axes.set_ylabel("false positive rate inside the labelled infection")
    axes.set_xticks(reach)
    axes.set_ylim(bottom=0)
    _percent(axes, "y")
    axes.legend(frameon=False)
    return figure


def boxes(cohort: Cohort, told: dict[str, dict[str, Any]]) -> Figure:
    """Figure 7: consolidation scores of cases without and with consolidation, boxes and every case as a point."""
    figure, panels = _figure(2)
    rng = np.random.default_rng(0)  # of the jitter alone
    for axes, (name, words) in zip(panels, NAMES.items(), strict=True):
        groups = metrics.groups(cohort, name)
        if not any(len(group) for group in groups):
            _empty(axes, "of no case is known whether there is consolidation")
            continue
        axes.boxplot(
            [group if len(group) else [np.nan] for group in groups],
            widths=0.5,
            showfliers=False,
            medianprops={"color": COLOURS[name], "linewidth": 2},
        )
        for place, group in enumerate(groups, start=1):
            spread = place + rng.uniform(-JITTER, JITTER, len(group))
            axes.scatter(spread, group, s=16, color=COLOURS[name], alpha=0.6, edgecolor="none", zorder=3)
        axes.set_xticks((1, 2), [f"{what}\n(n = {len(group)})" for what, group in zip(GROUPS, groups, strict=True)])
        axes.set_ylabel("consolidation score, share of the lungs")
        axes.set_yscale("symlog", linthresh=LINEAR_BELOW)
        axes.set_ylim(-0.05 * LINEAR_BELOW, 1.5 * max(LINEAR_BELOW, *(float(g.max(initial=0)) for g in groups)))
        _percent(axes, "y")
        axes.set_title(f"{words}\n{_test(told[name])}", fontsize=10)
    return figure


GROUPS = ("without\nconsolidation", "with\nconsolidation")


def _test(told: dict[str, Any]) -> str:
    if told["u"] is None:
        return "no test: both groups are needed"
    return f"AUC {told['auc']:.3f}, Mann-Whitney p = {p_value(told['p_two_sided'])} two-sided"


def p_value(p: float) -> str:
    """Three digits, or "< 0.001"."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def bland_altman(judged: Sequence[Judged], told: dict[str, Any], name: str, words: str) -> Figure:
    """Difference of score and reference against their mean, with bias and limits of agreement."""
    figure, (axes,) = _figure(1, 6.4, 4.2)
    used = metrics.scored(judged, name)
    if told["bias"] is None:
        _empty(axes, "fewer than three cases with labels and lungs")
        return figure
    true, found = _pairs(used, name)
    _points(axes, used, (true + found) / 2, found - true)
    low, high = told["limits_of_agreement"]
    for height, style, what in ((told["bias"], "-", "bias"), (low, "--", "−1.96 SD"), (high, "--", "+1.96 SD")):
        axes.axhline(height, color=GREY, linewidth=1.2, linestyle=style)
        place = axes.get_yaxis_transform()
        axes.text(1.0, height, f"{what}: {PERCENT(height)}", ha="right", va="bottom", fontsize=8, transform=place)
    axes.set_xlabel(f"mean of pipeline and expert label, {words}")
    axes.set_ylabel("pipeline − expert label")
    _percent(axes)
    return figure


def colour(subject: Subject) -> tuple[float, float, float]:
    """The colour of the node's pictures and SEG, 0 … 1."""
    red, green, blue = DESCRIPTIONS[subject].rgb
    return red / 255, green / 255, blue / 255
