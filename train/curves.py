"""Pictures of a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from certsnn.files import replacing


def plot_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Clean and verified validation error and training loss over epochs, as a PNG.

    Args:
        rows: the lines of metrics.jsonl.
        path: where the picture goes.
    """
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    errors, loss = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    errors.plot(epochs, [row["verified_error"] for row in rows], label="verified")
    errors.plot(epochs, [row["clean_error"] for row in rows], label="clean")
    errors.set(xlabel="epoch", ylabel="validation error (%)", ylim=(0, 100))
    errors.legend()
    loss.plot(epochs, [row["train_loss"] for row in rows], color="tab:gray")
    loss.set(xlabel="epoch", ylabel="training loss")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
