"""`certsnn models`."""

from __future__ import annotations

from rich.console import Console

from certsnn.commands.common import DONE
from certsnn.console import percent, rows_table
from certsnn.models import load_model, pretrained


def models() -> int:
    """Print the pretrained models; the exit status."""
    rows = []
    for name in pretrained():
        model = load_model(name)
        config, errors = (
            model.config,
            (model.facts.get(k) for k in ("clean_error", "verified_error")),
        )
        parts = [name, config.data.name, config.threat.describe()]
        rows.append(parts + ["-" if error is None else percent(error) for error in errors])
    columns = ["name", "data", "threat", "clean", "verified"]
    if rows:
        Console().print(rows_table(columns, rows))
        print("Errors on the whole test set; verified by S-IBP, rounding covered.")
    else:
        print("No pretrained models are installed.")
    return DONE
