"""An evaluation as one HTML page that needs no other file and no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, final

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from certsnn.bounds.cascade import STATUSES
from certsnn.report import charts, pictures
from certsnn.report.examples import Example
from certsnn.report.stability import LayerStability
from certsnn.results.summary import Report


@final
@dataclass(frozen=True)
class Findings:
    """The contents of a page.

    Args:
        title: its heading.
        data: the samples' data set in words, "the test set of digits".
        samples: their number, in words.
        how: the bounds, in words.
        report: the evaluation.
        flips: whether the network's input is spikes.
        size_name: the name of the threat's size.
        sweep: sizes and reports, ascending; empty without a sweep.
        layers: the neurons that the bounds decide, over the first ``layers_samples`` samples.
        layers_samples: their number.
        examples: samples that were broken.
        origin: names and values that say where the figures come from.
        config: the whole config as text.
    """

    title: str
    data: str
    samples: str
    how: str
    report: Report
    flips: bool
    size_name: str
    sweep: Sequence[tuple[float, Report]]
    layers: Sequence[LayerStability]
    layers_samples: int
    examples: Sequence[Example]
    origin: Mapping[str, str]
    config: str


def page(findings: Findings) -> str:
    """The page as HTML."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(_text("page.html"))
    statuses = [(name, getattr(findings.report.summary, name)) for name in STATUSES]
    own = {
        "style": Markup(_text("page.css")),
        "statuses": [(name, count) for name, count in statuses if count],
        "examples": [_shown(example, number) for number, example in enumerate(findings.examples)],
    }
    return template.render(vars(findings) | own | _charts(findings))


def _text(name: str) -> str:
    """The text of a file beside this module."""
    return (files("certsnn.report") / name).read_text(encoding="utf-8")


def _charts(findings: Findings) -> dict[str, Markup]:
    """The charts as SVG, by the names that the template has for them."""
    report = findings.report
    rates = (("clean", report.clean), ("attack", report.attack), ("verified", report.verified))
    said = ", ".join(f"{name} {rate.percent:.2f}%" for name, rate in rates)
    groups = {name: sum(charts.group(r) == name for r in report.results) for name, _ in charts.GROUPS}
    members = ", ".join(f"{count} {name}" for name, count in groups.items())
    found = {
        "errors_chart": charts.svg(charts.errors(rates), f"Bar chart of the errors: {said}"),
        "margins_chart": charts.svg(
            charts.margins(report.results), f"Histogram of the proved margins: {members}"
        ),
        "layers_chart": charts.svg(
            charts.layers(findings.layers), "Bar charts of stable neurons by layer and step; table below"
        ),
        "curve": "",
    }
    if findings.sweep:
        alt = f"Accuracy over {findings.size_name}: clean, under attack and certified; table below"
        found["curve"] = charts.svg(charts.curves(findings.sweep, findings.size_name), alt)
    return {name: Markup(text) for name, text in found.items()}


def _shown(example: Example, number: int) -> dict[str, Any]:
    """An example as the template takes it."""
    name = "firing rates" if example.spikes else "image"
    parts = (
        ("before", pictures.before(example), f"The {name} of sample {example.index}, a {example.label}"),
        ("after", pictures.after(example), f"The same after the attack, taken for {example.answer}"),
        ("change", pictures.change(example), "The difference of the two, enhanced"),
    )
    shown = {
        "index": example.index,
        "label": example.label,
        "answer": example.answer,
        "attack": example.attack,
        "pictures": [(caption, pictures.data_uri(image), alt) for caption, image, alt in parts],
        "raster": "",
    }
    if not example.spikes:
        difference = (example.after - example.before).abs()
        moved = int((difference > 0).sum())
        shown["change"] = f"{moved} pixels moved, by at most {float(difference.max()):.3g}"
        return shown
    added, dropped = pictures.flips(example)
    alt = f"Spikes of sample {example.index} ({number + 1}) over time: {added} added, {dropped} dropped"
    shown["raster"] = Markup(charts.svg(pictures.raster(example), alt))
    shown["change"] = f"{added} spikes added, {dropped} dropped"
    return shown
