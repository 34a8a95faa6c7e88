"""How tight the proofs are: clean, attack and verified error of every pretrained model, side by side.

    python benchmarks/tightness/tightness.py ROOT [MODEL ...]  # renews rows of results/tightness.{json,md}

The whole test set of digits, and the first 1,000 test samples of the data sets in ROOT, a subset. Each model
under the threat that it was trained for, by s-crown-ibp, with the default suite of attacks. One thread.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from certsnn.data import loader
from certsnn.evaluation import evaluate
from certsnn.models import load_model, pretrained

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import record

BATCH, SAMPLES, METHOD = 250, 1000, "s-crown-ibp"


def row(name: str, root: Path) -> record.Row:
    """One model's errors."""
    model = load_model(name)
    test = record.test_set(model, root)
    part = test.head(SAMPLES)
    begun = time.perf_counter()
    encoding = model.config.data.encoding
    report = evaluate(model.network, loader(part, BATCH), model.config.threat, METHOD, encoding=encoding)
    return {
        "samples": f"all {len(test)}" if len(part) == len(test) else f"the first {len(part)} of {len(test)}",
        "seconds": time.perf_counter() - begun,
        **report.as_dict(),
        "versions": record.versions(),
        "cores": os.cpu_count(),
    }


ERRORS = {
    "model": "{name}",
    "threat": "`{threat}`",
    "samples": "{samples}",
    **{
        kind: "{errors[KIND][percent]:.2f} ({errors[KIND][interval][0]:.2f} to "
        "{errors[KIND][interval][1]:.2f})".replace("KIND", kind)
        for kind in ("clean", "attack", "verified")
    },
    "gap": "{errors[gap][percent]:.2f}",
    "s": "{seconds:.0f}",
}
ATTACKS = record.columns(
    "model | attack | broken | success | queries a sample | s",
    "{model} | `{name}` | {success[count]} of {attacked} | {success[percent]:.2f}% | {queries:.0f} | "
    "{seconds:.0f}",
)


def page(found: Mapping[str, record.Row]) -> str:
    models = record.named(found)
    attacks = [{"model": row["name"], **one} for row in models for one in record.named(row["attacks"])]
    cores = " or ".join(dict.fromkeys(str(row["cores"]) for row in models))
    return f"""\
# How tight the proofs are

Errors in percent with 95% Clopper-Pearson intervals; bounds by `{METHOD}`, rounding covered; \
attacks: the default suite on every sample that the network gets right, the worst case of each \
sample. The gap is verified minus attack error: samples that nothing breaks and nothing proves.

{record.all_versions(models)}, 1 thread(s) on a machine with {cores} cores that did other work too. \
`python benchmarks/tightness/tightness.py ROOT`

{record.table(ERRORS, models)}
What each attack broke, of the samples that the network gets right:

{record.table(ATTACKS, attacks)}"""


def main(root: Path, *models: str) -> None:
    torch.set_num_threads(1)
    for name in models or pretrained():
        rows = record.read("tightness", {}) | {name: row(name, root)}
        found = {model: rows[model] for model in pretrained() if model in rows}
        record.write("tightness", found, page(found))


if __name__ == "__main__":
    record.run(main)
