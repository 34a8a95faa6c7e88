"""The charts of a report, as SVG that takes its ink from the page around it: dark on light, light on dark."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from io import StringIO
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from certsnn.evaluation.verification import SampleResult
from certsnn.report.stability import LayerStability
from certsnn.results.rates import Rate
from certsnn.results.summary import Report

INK = "#010203"
"""Stands for the page's text colour until `svg` puts ``currentColor`` in its place."""

CLEAN, ATTACK, VERIFIED, OPEN = "#8a8a8a", "#d9822b", "#3f8fd2", "#c9a227"
"""Told apart by most colour-blind readers, and seen on white and on black."""

BROKEN, SILENT, FIRING = "#d1495b", "#8a8a8a", "#3f8fd2"


def svg(figure: Figure, alt: str) -> str:
    """The figure as an ``<svg>`` element for a page, that screen readers read as ``alt``."""
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": alt}  # the salt keeps ids of several charts apart
    written = StringIO()
    with matplotlib.rc_context(style):
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = written.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'(<g) id="[^"]*"', r"\1", text)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"(font: [\d.]+px) [^;\"]*", r"\1 inherit", text)
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    width = float(size[1]) * 96 / 72 if size else 640
    return re.sub(
        r'(<svg)[^>]*?(viewBox="[^"]*")[^>]*>',
        lambda found: (
            f'<svg {found[2]} role="img" aria-label="{escape(alt)}" style="max-width: {width:.0f}px">'
        ),
        text,
        count=1,
    )


def inked_axes(width: float = 6.4, height: float = 3.2, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure in the page's ink with ``columns`` axes side by side; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0].tolist()
    for one in axes:
        one.tick_params(colors=INK, labelsize=9)
        for side, spine in one.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(INK)
        for label in (one.xaxis.label, one.yaxis.label, one.title):
            label.set_color(INK)
            label.set_fontsize(10)
    return figure, axes


def legend(axes: Axes, **where: Any) -> None:
    """A legend in the page's ink; keywords of matplotlib's."""
    axes.legend(frameon=False, labelcolor=INK, fontsize=9, **where)


def curves(rows: Sequence[tuple[float, Report]], name: str) -> Figure:
    """Accuracy over the threat's size: clean, under attack and certified, with their 95% intervals.

    The true robust accuracy lies between the last two.
    """
    figure, (axes,) = inked_axes()
    sizes = [size for size, _ in rows]
    lines = (
        ("clean", CLEAN, "--", [report.clean for _, report in rows]),
        ("under attack (upper bound)", ATTACK, "-", [report.attack for _, report in rows]),
        ("certified (lower bound)", VERIFIED, "-", [report.verified for _, report in rows]),
    )
    for label, colour, style, rates in lines:
        intervals = [rate.interval for rate in rates]
        low, high = [100 - top for _, top in intervals], [100 - bottom for bottom, _ in intervals]
        accuracy = [100 - rate.percent for rate in rates]
        axes.plot(sizes, accuracy, style, color=colour, marker="o", markersize=4, label=label)
        if colour != CLEAN:
            axes.fill_between(sizes, low, high, color=colour, alpha=0.18, linewidth=0)
    least = min(100 - rate.interval[1] for _, _, _, rates in lines for rate in rates)
    bottom = 0 if least < 50 else 10 * (least // 10)
    axes.set(xlabel=f"{name} of the threat", ylabel="accuracy (%)", ylim=(bottom, 101))
    legend(axes, loc="lower left")
    return figure


def errors(rates: Sequence[tuple[str, Rate]]) -> Figure:
    """The three errors as bars with their 95% intervals."""
    figure, (axes,) = inked_axes(6.4, 1.7)
    places = list(range(len(rates)))[::-1]
    colours = (CLEAN, ATTACK, VERIFIED)
    for place, (_, rate), colour in zip(places, rates, colours, strict=True):
        low, high = rate.interval
        axes.barh(place, rate.percent, color=colour, height=0.6)
        axes.plot([low, high], [place, place], color=INK, linewidth=1.2, marker="|", markersize=7)
        axes.annotate(
            f"{rate.percent:.2f} %",
            (high, place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            fontsize=9,
        )
    axes.set_yticks(places, [name for name, _ in rates])
    most = max(rate.interval[1] for _, rate in rates)
    axes.set(xlabel="error (%) with 95% interval", xlim=(0, min(100.0, 1.15 * most) if most < 87 else 115))
    return figure


GROUPS = (
    ("certified", VERIFIED),
    ("neither broken nor certified", OPEN),
    ("broken by an attack", BROKEN),
    ("misclassified", CLEAN),
)
"""The possible outcomes of a sample, with their colours; `group` tells a sample's."""


def group(result: SampleResult) -> str:
    """The name in `GROUPS` of a sample's outcome."""
    if not result.correct:
        return "misclassified"
    if result.broken_by:
        return "broken by an attack"
    return "certified" if result.status == "certified" else "neither broken nor certified"


def margins(results: Sequence[SampleResult]) -> Figure:
    """A histogram of the least margins that are proved; those above 0 certify."""
    figure, (axes,) = inked_axes()
    finite = [result for result in results if np.isfinite(result.margin)]
    values = [result.margin for result in finite] or [0.0]
    low, high = min(*values, 0.0), max(*values, 0.0)
    width = (high - low or 1.0) / 40
    edges = np.arange(np.floor(low / width), np.ceil(high / width) + 1) * width  # 0 is an edge
    edges = edges if len(edges) > 1 else np.array([-width, 0.0, width])
    parts = [[result.margin for result in finite if group(result) == name] for name, _ in GROUPS]
    axes.hist(
        parts,
        bins=edges.tolist(),
        stacked=True,
        color=[colour for _, colour in GROUPS],
        label=[f"{name} ({len(part)})" for (name, _), part in zip(GROUPS, parts, strict=True)],
    )
    axes.axvline(0, color=INK, linewidth=1, linestyle=":")
    axes.set(xlabel="least margin that is proved", ylabel="samples")
    legend(axes, loc="upper left")
    return figure


def layers(found: Sequence[LayerStability]) -> Figure:
    """The shares of surely silent, surely firing and unstable neurons of each layer, step by step."""
    figure, plots = inked_axes(max(6.4, 2.4 * len(found)), 2.8, len(found))
    for number, (axes, layer) in enumerate(zip(plots, found, strict=True), 1):
        steps = range(1, len(layer.silent) + 1)
        below = np.zeros(len(layer.silent))
        for label, colour, shares in (
            ("surely silent", SILENT, layer.silent),
            ("unstable", OPEN, layer.unstable),
            ("surely firing", FIRING, layer.firing),
        ):
            axes.bar(steps, shares, bottom=below, color=colour, width=0.8, label=label)
            below = below + np.array(shares)
        axes.set(title=f"layer {number}: {layer.neurons} neurons", xlabel="step", ylim=(0, 100))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    plots[0].set_ylabel("neurons (%)")
    handles, labels = plots[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=3, frameon=False, labelcolor=INK, fontsize=9
    )
    return figure
