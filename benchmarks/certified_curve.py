"""Certified accuracy over eps, as JSON and as a picture.

    python benchmarks/certified_curve.py digits-eps0.05 [ROOT]

The network is a pretrained name, a run folder or a weights file whose threat is LinfBall; ROOT is the folder
of torchvision's data sets. Writes benchmarks/results/certified-NAME.json and docs/certified-NAME.png.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure
from rich.progress import track

from certsnn.data import load, loader
from certsnn.evaluation.verification import Summary, summarise, verify
from certsnn.files import replacing, write_text
from certsnn.inputsets import LinfBall
from certsnn.models.pretrained import Model, load_model

POINTS = 13
"""Values of eps, from 0 to twice that of the training."""


def sweep(model: Model, root: str | None) -> dict[float, Summary]:
    """Clean and verified error on the test set for each eps."""
    assert isinstance(model.config.threat, LinfBall), "the curve is over eps: it needs a LinfBall"
    trained = model.config.threat.eps
    test = load(model.config.data.name, "test", root)
    return {
        eps: summarise(
            result for batch in verify(model.network, loader(test, 256), LinfBall(eps)) for result in batch
        )
        for eps in track([round(2 * trained * i / (POINTS - 1), 6) for i in range(POINTS)])
    }


def plot(name: str, model: Model, found: dict[float, Summary], path: Path) -> None:
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    clean = 100 - next(iter(found.values())).clean_error
    axes.axhline(clean, color="tab:gray", linestyle="--", label=f"clean accuracy {clean:.1f}%")
    verified = [100 - summary.verified_error for summary in found.values()]
    axes.plot(list(found), verified, marker="o", markersize=3, label="certified accuracy (S-IBP)")
    axes.axvline(model.config.threat.eps, color="tab:green", linewidth=0.8, label="eps of the training")  # type: ignore[attr-defined]
    samples = next(iter(found.values())).samples
    axes.set(xlabel="eps: each pixel may move by this much", ylabel="test accuracy (%)", ylim=(0, 102))
    axes.set_title(f"{name}: {samples} test images, rounding covered", fontsize=10)
    axes.legend(fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def main() -> None:
    name = Path(sys.argv[1]).name.removesuffix(".safetensors")
    root = sys.argv[2] if len(sys.argv) > 2 else None
    model = load_model(sys.argv[1])
    found = sweep(model, root)
    here = Path(__file__).parent
    rows = {str(eps): summary.as_dict() for eps, summary in found.items()}
    write_text(here / "results" / f"certified-{name}.json", json.dumps(rows, indent=2) + "\n")
    plot(name, model, found, here.parent / "docs" / f"certified-{name}.png")


if __name__ == "__main__":
    main()
