"""The pretrained models under the cascade, where S-IBP fails by little.

    python benchmarks/auto.py ROOT REACH [MODEL ...]      # renews rows of results/auto.{json,md}

S-IBP on the whole test set, then `method="auto"` on the images that S-IBP leaves open with a margin above
-REACH, each with a limit of LIMIT seconds; the others count as unverified, so auto's verified error is an
upper bound. One thread. ROOT is the folder of torchvision's data sets. `benchmarks/collect.py --errors` puts
the errors into the models' files.
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.progress import track

from certsnn import __version__
from certsnn.bounds.options import BoundOptions
from certsnn.data import load, loader
from certsnn.evaluation.verification import summarise, verify
from certsnn.files import write_text
from certsnn.models.pretrained import load_model, pretrained

RESULTS = Path(__file__).parent / "results"
BATCH, LIMIT = 250, 30.0
Row = dict[str, Any]


def row(name: str, root: str, reach: float) -> Row:
    model = load_model(name)
    data = load(model.config.data.name, "test", root, frames=model.config.data.frames)
    common: Row = {"encoding": model.config.data.encoding}

    def run(positions: list[int], batch: int, **how: Any) -> list[Any]:
        part = data.subset(positions)
        batches = track(loader(part, batch), description=name, total=-(-len(part) // batch))
        found = verify(model.network, batches, model.config.threat, **common, options=BoundOptions(**how))
        return [result for results in found for result in results]

    every = run(list(range(len(data))), BATCH, method="s-ibp")
    near = [r.index for r in every if r.status != "certified" and r.correct and r.margin > -reach]
    tried = run(near, 1, method="auto", seconds=LIMIT) if near else []
    best = {result.index: result for result in [*every, *tried]}
    proved = [result for result in tried if result.status == "certified"]
    return {
        "model": name,
        "samples": len(data),
        "threat": model.config.threat.describe(),
        "clean_error": summarise(every).clean_error,
        "verified_error": summarise(every).verified_error,
        "auto_error": summarise(best.values()).verified_error,
        "reach": reach,
        "limit": LIMIT,
        "tried": len(tried),
        "certified": len(proved),
        "by_search": sum(result.stage == "branch-and-bound" for result in proved),
        "median_seconds": median(r.seconds for r in tried) if tried else 0.0,
        "largest_seconds": max((r.seconds for r in tried), default=0.0),
        "versions": f"certsnn {__version__}, torch {torch.__version__}, Python {platform.python_version()}",
    }


def table(rows: list[Row]) -> str:
    lines = [
        "# The cascade on the pretrained models",
        "",
        "Whole test sets, the threat that each model was trained for, rounding covered. `auto` ran on the",
        "images whose least margin S-IBP puts above the one in the table; the others count as unverified.",
        f"One thread. {rows[0]['versions']}.",
        "",
        "| model | threat | clean error | verified error, S-IBP | auto, at most | margins from | "
        "seconds an image, at most | images tried | certified | of these by branch-and-bound | "
        "seconds an image (median / largest) |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        cells = [
            r["model"],
            r["threat"],
            f"{r['clean_error']:.2f}",
            f"{r['verified_error']:.2f}",
            f"{r['auto_error']:.2f}",
            f"-{r['reach']:g}",
            f"{r['limit']:g}",
            str(r["tried"]),
            str(r["certified"]),
            str(r["by_search"]),
            f"{r['median_seconds']:.1f} / {shown(r['largest_seconds'])}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def shown(seconds: float | None) -> str:
    """A dash where the run was paused, and its longest time says nothing."""
    return "-" if seconds is None else f"{seconds:.1f}"


def main(root: str, reach: float, names: list[str]) -> None:
    torch.set_num_threads(1)
    path = RESULTS / "auto.json"
    rows = {r["model"]: r for r in json.loads(path.read_text())} if path.exists() else {}
    for name in names or list(pretrained()):
        rows[name] = row(name, root, reach)
        print(rows[name], flush=True)
        present = [rows[known] for known in sorted(rows)]
        write_text(path, json.dumps(present, indent=2) + "\n")
        write_text(RESULTS / "auto.md", table(present))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3:])
