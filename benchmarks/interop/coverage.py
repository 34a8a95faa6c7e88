"""Which networks of other libraries are imported.

    python benchmarks/interop/coverage.py    # writes benchmarks/results/imports.{json,md}

Networks in the form of the libraries' tutorials, examples and models, narrow and not trained, are imported,
each with its trace check on random inputs. NIR graphs have no original to compare with. Code: the library's
own class, or ours, written again from its description. Layers that are silent on these inputs are compared on
currents at their threshold alone. Needs snnTorch, SpikingJelly, Norse and nir (docs/guide/import.md).
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import certsnn
from certsnn.errors import UserError
from certsnn.networks import SpikingNetwork

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import record

LIBRARIES = ("snntorch", "spikingjelly", "norse", "nir")


def outcome(load: Any, example: Any) -> tuple[bool, str]:
    """Whether a network is imported, and the trace check or the reasons."""
    torch.manual_seed(0)
    try:
        module, x, arguments = example.make()
    except ImportError as error:
        return False, f"its file can't be imported here: {error}"
    try:
        found = load(module, **arguments) if load is certsnn.from_nir else load(module, x, **arguments)
    except UserError as error:
        lines = str(error).splitlines()
        return False, lines[-1 if len(lines) == 1 else 1].removeprefix("- ")
    network = found if isinstance(found, SpikingNetwork) else found.network
    with torch.no_grad():
        rates = [float(trace.spikes.mean()) for trace in network.freeze().traces(x)]
    silent = f", {rates.count(0)} silent" if 0 in rates else ""
    check = "no original" if found is network else compared(found.check)
    return True, f"{check}; {len(rates)} layers of neurons{silent}"


def compared(check: Any) -> str:
    return f"{check.differ} of {check.spikes} spikes differ, membranes by up to {check.membranes:.2g}"


def row(library: str, load: Any, example: Any) -> record.Row:
    good, text = outcome(load, example)
    shown = " ".join(text.split()).replace("|", "/")
    code = "its own" if example.own else "ours"
    found = {"library": library, "network": example.name, "code": code, "imported": good, "outcome": shown}
    print(found, flush=True)
    return found


def page(found: record.Row) -> str:
    """Counts, then a table for each library."""
    rows: Sequence[record.Row] = found["rows"]
    good = sum(row["imported"] for row in rows)
    parts = [f"# Networks of other libraries\n\n{record.explained(__doc__)}\n\n{found['setting']}\n"]
    parts.append(f"Imported: {good} of {len(rows)}.\n")
    for library in LIBRARIES:
        own = [row for row in rows if row["library"] == library]
        count = sum(row["imported"] for row in own)
        shown = [{**row, "imported": "yes" if row["imported"] else "no"} for row in own]
        columns = record.columns(
            "network | code | imported | trace check, or why not",
            "{network} | {code} | {imported} | {outcome}",
        )
        parts.append(f"## {library}: {count} of {len(own)}\n\n{record.table(columns, shown)}")
    return "\n".join(parts)


def main() -> None:
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(Path(__file__).resolve().parent / "examples"))
    loads = (certsnn.from_snntorch, certsnn.from_spikingjelly, certsnn.from_norse, certsnn.from_nir)
    lists = [getattr(import_module(f"of_{library}"), library.upper()) for library in LIBRARIES]
    examples = zip(LIBRARIES, loads, lists, strict=True)
    rows = [row(library, load, example) for library, load, several in examples for example in several]
    versions = {name: version(name) for name in LIBRARIES}
    found = {"setting": record.setting(threads=torch.get_num_threads(), **versions), "rows": rows}
    record.write("imports", found, page(found))


if __name__ == "__main__":
    record.run(main)
