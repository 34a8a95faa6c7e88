"""Certified accuracy over eps, as JSON and as a picture.

    python benchmarks/tightness/certified_curve.py digits-eps0.05 [ROOT]

The network is a pretrained name, a run folder or a weights file whose threat is LinfBall; ROOT is the folder
of data sets. Writes benchmarks/results/certified-NAME.json and docs/certified-NAME.png.
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.figure import Figure
from rich.progress import track

from certsnn.data import DEFAULT_ROOT, loader
from certsnn.errors import ConfigError
from certsnn.evaluation.verification import Summary, summarise, verify
from certsnn.inputsets import LinfBall
from certsnn.models import load_model

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import record

POINTS = 13
"""Values of eps, from 0 to twice that of the training."""


def sweep(network: str, root: Path) -> tuple[float, dict[float, Summary]]:
    """The eps of the training, then clean and verified error on the test set for each eps."""
    model = load_model(network)
    if not isinstance(model.config.threat, LinfBall):
        raise ConfigError(f"the curve is over eps: {network} was trained for another threat than LinfBall")
    trained = model.config.threat.eps
    test = record.test_set(model, root)
    return trained, {
        eps: summarise(
            result for batch in verify(model.network, loader(test, 256), LinfBall(eps)) for result in batch
        )
        for eps in track([round(2 * trained * i / (POINTS - 1), 6) for i in range(POINTS)])
    }


def plot(name: str, trained: float, found: dict[float, Summary]) -> Figure:
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    first = next(iter(found.values()))
    clean = 100 - first.clean_error
    axes.axhline(clean, color="tab:gray", linestyle="--", label=f"clean accuracy {clean:.1f}%")
    verified = [100 - summary.verified_error for summary in found.values()]
    axes.plot(list(found), verified, marker="o", markersize=3, label="certified accuracy (S-IBP)")
    axes.axvline(trained, color="tab:green", linewidth=0.8, label="eps of the training")
    axes.set(xlabel="eps: each pixel may move by this much", ylabel="test accuracy (%)", ylim=(0, 102))
    axes.set_title(f"{name}: {first.samples} test images, rounding covered", fontsize=10)
    axes.legend(fontsize=8)
    return figure


def main(network: str, root: Path = DEFAULT_ROOT) -> None:
    name = f"certified-{Path(network).name.removesuffix('.safetensors')}"
    trained, found = sweep(network, root)
    rows = {str(eps): summary.as_dict() for eps, summary in found.items()}
    record.write_json(name, rows)
    record.draw(name, plot(name.removeprefix("certified-"), trained, found), dpi=130)


if __name__ == "__main__":
    record.run(main)
