"""`certsnn models`."""

from __future__ import annotations

from rich.console import Console
from rich.markdown import Markdown

from certsnn.cli.commands.common import DONE
from certsnn.cli.console import rows_table
from certsnn.models.cards import card
from certsnn.models.pretrained import load_model, locate, pretrained
from certsnn.results.rates import percent


def describe(name: str) -> int:
    """Print a model's card, which is Markdown where there is no terminal; the exit status.

    Raises:
        CheckpointError: if there is no such model.
    """
    text = card(name, load_model(name), locate(name).stat().st_size).markdown()
    console = Console()
    if console.is_terminal:
        console.print(Markdown(text))
    else:
        print(text, end="")
    return DONE


def models() -> int:
    """Print the pretrained models; the exit status."""
    rows = []
    for name in pretrained():
        model = load_model(name)
        config, facts = model.config, model.facts
        errors = (facts.get(key) for key in ("clean_error", "verified_error", "auto_error"))
        parts = [name, config.data.name, config.threat.describe()]
        rows.append(parts + ["-" if error is None else percent(error) for error in errors])
    columns = ["name", "data", "threat", "clean", "s-ibp", "auto"]
    if rows:
        Console().print(rows_table(columns, rows))
        print("Clean and verified errors on the test set (of nmnist a subset), rounding covered; those of")
        print("auto are upper bounds: it was run where s-ibp failed by little (benchmarks/results/auto.md).")
        print("`certsnn models NAME` says more of one of them.")
    else:
        print("No pretrained models are installed.")
    return DONE
