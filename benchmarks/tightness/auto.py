"""The pretrained models under the cascade, where S-IBP fails by little.

    python benchmarks/tightness/auto.py ROOT REACH [MODEL ...]      # renews rows of results/auto.{json,md}

S-IBP on the whole test set, then `method="auto"` on the images that S-IBP leaves open with a margin above
-REACH, each with a limit of LIMIT seconds; the others count as unverified, so auto's verified error is an
upper bound. One thread. ROOT is the folder of data sets. `python benchmarks/papers/results_page.py errors`
puts the errors into the models' files.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.progress import track

from certsnn.bounds.options import BoundOptions
from certsnn.data import loader
from certsnn.evaluation.verification import summarise, verify
from certsnn.models import load_model, pretrained

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import record

BATCH, LIMIT = 250, 30.0


def row(name: str, root: Path, reach: float) -> record.Row:
    model = load_model(name)
    data = record.test_set(model, root)

    def run(positions: list[int], batch: int, **how: Any) -> list[Any]:
        part = data.subset(positions)
        batches = track(loader(part, batch), description=name, total=-(-len(part) // batch))
        encoding = model.config.data.encoding
        options = BoundOptions(**how)
        found = verify(model.network, batches, model.config.threat, encoding=encoding, options=options)
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
        "versions": record.versions(),
    }


COLUMNS = record.columns(
    "model | threat | clean error | verified error, S-IBP | auto, at most | margins from | "
    "seconds an image, at most | images tried | certified | of these by branch-and-bound | "
    "seconds an image (median / largest)",
    "{model} | {threat} | {clean_error:.2f} | {verified_error:.2f} | {auto_error:.2f} | -{reach:g} | "
    "{limit:g} | {tried} | {certified} | {by_search} | {median_seconds:.1f} / {largest_seconds:.1f}",
)


def page(rows: Sequence[record.Row]) -> str:
    """Markdown; the largest time is None where the run was paused."""
    return f"""\
# The cascade on the pretrained models

Whole test sets, the threat that each model was trained for, rounding covered. `auto` ran on the
images whose least margin S-IBP puts above the one in the table; the others count as unverified.
One thread. {record.all_versions(rows)}.

{record.table(COLUMNS, rows)}"""


def main(root: Path, reach: float, *models: str) -> None:
    torch.set_num_threads(1)
    for name in models or pretrained():
        rows = {found["model"]: found for found in record.read("auto", [])} | {name: row(name, root, reach)}
        present = [rows[known] for known in sorted(rows)]
        record.write("auto", present, page(present))


if __name__ == "__main__":
    record.run(main)
