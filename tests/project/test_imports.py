"""Which way imports go: the rules of docs/architecture.md."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLACES = {"certsnn": "certsnn", "bounds": "certsnn.bounds", "train": "certsnn.train"}
NAMES = "affine architectures encoding inputs kernels layers networks neurons products program scan settings"
DESCRIBING = [f"certsnn.{name}" for name in (*NAMES.split(), "surrogates")]
APART = ["certsnn.inputsets", "certsnn.attacks"]


def imports() -> Iterator[tuple[str, str]]:
    """Module and what it imports, in whatever function."""
    for place, package in PLACES.items():
        for path in sorted((ROOT / place).rglob("*.py")):
            parts = path.relative_to(ROOT / place).with_suffix("").parts
            module = ".".join((package, *parts)).removesuffix(".__init__")
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    yield from ((module, alias.name) for alias in node.names)
                elif isinstance(node, ast.ImportFrom):
                    yield from ((module, f"{node.module}.{alias.name}") for alias in node.names)


IMPORTS = list(imports())


def below(module: str, packages: Sequence[str]) -> bool:
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize(
    ("importers", "forbidden"),
    [
        ([*DESCRIBING, *APART], ["certsnn.bounds", "certsnn.train"]),
        (["certsnn.bounds"], ["certsnn.evaluation", "certsnn.data", "certsnn.train"]),
    ],
)
def test_nothing_imports_what_is_above_it(importers: list[str], forbidden: list[str]) -> None:
    assert any(below(module, importers) for module, _ in IMPORTS)
    assert not [pair for pair in IMPORTS if below(pair[0], importers) and below(pair[1], forbidden)]


def test_attacks_prove_nothing_so_one_file_of_the_bounds_knows_them() -> None:
    importers = {module for module, name in IMPORTS if below(name, ["certsnn.attacks"])}
    assert {module for module in importers if below(module, ["certsnn.bounds"])} == {"certsnn.bounds.attack"}


def test_only_the_command_line_imports_the_command_line() -> None:
    outside = [pair for pair in IMPORTS if not below(pair[0], ["certsnn.cli", "certsnn.__main__"])]
    assert not [pair for pair in outside if below(pair[1], ["certsnn.cli"])]


def test_torch_distributed_stands_in_one_file() -> None:
    assert {module for module, name in IMPORTS if below(name, ["torch.distributed"])} == {
        "certsnn.cli.distributed"
    }
