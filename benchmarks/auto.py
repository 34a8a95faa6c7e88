"""The pretrained MNIST models under the cascade, where S-IBP fails by little.

    python benchmarks/auto.py DATA [REACH] [MODEL...]      # writes benchmarks/results/auto.md

Several runs with other models or another REACH are put together by hand: each row says its own.

S-IBP on the whole test set in DATA, then `method="auto"` on the images that S-IBP leaves open with a margin
above -REACH (0.1); the others count as unverified, so auto's verified error is an upper bound. One thread.
"""

from __future__ import annotations

import platform
import sys
import time
from pathlib import Path

import torch
from rich.progress import track

from certsnn import __version__
from certsnn.bounds import certify
from certsnn.data import ImageDataset, load
from certsnn.files import write_text
from certsnn.inputsets import LinfBall
from certsnn.models import load_model
from certsnn.networks import strictly_correct

RESULTS = Path(__file__).parent / "results"
MODELS = ("mnist-lif-eps0.1", "mnist-fc-eps0.1", "mnist-cnn-eps0.1")
THREAT, BATCH, LIMIT = LinfBall(0.1), 250, 60.0


@torch.no_grad()
def row(name: str, data: ImageDataset, reach: float) -> str:
    network = load_model(name).network.eval()
    proved, near = 0, []
    for start in track(range(0, len(data), BATCH), description=f"{name}, s-ibp"):
        x, y, index = data[range(start, min(start + BATCH, len(data)))]
        verdict = certify(network, x, y, THREAT, "s-ibp", index=index)
        proved += int(verdict.certified.sum())
        margins = verdict.margins.amin(1)
        near += index[~verdict.certified & strictly_correct(network(x), y) & (margins > -reach)].tolist()
    counted, more, better, seconds = 0, 0, 0, []
    for position in track(near, description=f"{name}, auto"):
        x, y, index = data[range(position, position + 1)]
        begun = time.perf_counter()
        base = certify(network, x, y, THREAT, "s-ibp", index=index).margins.amin()
        verdict = certify(network, x, y, THREAT, "auto", index=index, seconds=LIMIT)
        seconds.append(time.perf_counter() - begun)
        more += int(verdict.certified.sum())
        counted += verdict.status[0] == "certified" and verdict.stage[0] == "branch-and-bound"
        better += bool(verdict.margins.amin() > base + 1e-9)
    total = len(data)
    middle = sorted(seconds)[len(seconds) // 2] if seconds else 0.0
    took = f"{middle:.1f} / {max(seconds, default=0.0):.1f}"
    return (
        f"| {name} | {100 * (total - proved) / total:.2f} | {100 * (total - proved - more) / total:.2f} | "
        f"-{reach:g} | {len(near)} | {better} | {more} | {counted} | {took} |"
    )


def main(root: str, reach: float, names: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    data = load("mnist", "test", root, False)
    lines = [
        "# The cascade on the pretrained MNIST models\n",
        f"All {len(data)} test images, LinfBall(0.1), rounding covered. `auto` ran on the images whose least "
        "margin S-IBP puts above the one in the table; the others count as unverified.\n",
        f"certsnn {__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        "one thread.\n",
        "| model | verified error, S-IBP | auto, at most | least margins from | images tried | with a better "
        "margin | certified | of these by branch-and-bound | seconds an image (median / largest) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        lines.append(row(name, data, reach))
        print(lines[-1], flush=True)
    write_text(RESULTS / "auto.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    arguments = sys.argv[2:]
    main(sys.argv[1], float(arguments[0]) if arguments else 0.1, tuple(arguments[1:]) or MODELS)
