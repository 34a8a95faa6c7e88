"""Rules of every module: names documented, classes abstract or final, files and functions short."""

from __future__ import annotations

import ast
import inspect
import sys
from abc import ABC
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLACES = {"certsnn": "certsnn", "bounds": "certsnn.bounds", "train": "certsnn.train"}


@cache
def modules() -> list[str]:
    found = []
    for place, package in PLACES.items():
        for path in sorted((ROOT / place).rglob("*.py")):
            parts = path.relative_to(ROOT / place).with_suffix("").parts
            if parts[-1] != "__main__":
                found.append(".".join((package, *(part for part in parts if part != "__init__"))))
    return [module for module in found if importable(module)]


def importable(module: str) -> bool:
    """Not where numba, which is no requirement, is not installed and the module needs it."""
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        if error.name != "numba":
            raise
        return False
    return True


def defined(module: str) -> Iterator[tuple[str, Any]]:
    """The classes and functions of a module, by name."""
    for name, value in vars(import_module(module)).items():
        ours = getattr(value, "__module__", None) == module
        if ours and (inspect.isclass(value) or inspect.isfunction(value)):
            yield f"{module}.{name}", value


def members(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A class or function, and a class's own methods and properties."""
    yield name, value
    for part, member in vars(value).items() if inspect.isclass(value) else ():
        if inspect.isfunction(member) or isinstance(member, (property, classmethod, staticmethod)):
            yield f"{name}.{part}", getattr(value, part)


def documented(value: Any) -> bool:
    if not inspect.isclass(value):
        return bool(inspect.getdoc(value))  # a method that overrides another one has that one's
    text = vars(value).get("__doc__") or ""
    return text != "" and not text.startswith(f"{value.__name__}(")  # dataclasses write that one themselves


@pytest.mark.parametrize("module", modules())
def test_public_names_are_documented(module: str) -> None:
    assert import_module(module).__doc__
    public = {
        name: member
        for top, value in defined(module)
        for name, member in members(top, value)
        if not any(part.startswith("_") for part in name.removeprefix(f"{module}.").split("."))
    }
    assert not [name for name, member in public.items() if not documented(member)]


def closed(cls: type) -> bool:
    """Abstract, final, a tuple with names, or an error that others derive from."""
    if inspect.isabstract(cls) or ABC in cls.__bases__ or Protocol in cls.__bases__:
        return True
    if issubclass(cls, tuple) or (issubclass(cls, Exception) and cls.__subclasses__()):
        return True
    return bool(vars(cls).get("__final__", False))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="typing.final leaves no mark before Python 3.11")
@pytest.mark.parametrize("module", modules())
def test_classes_are_abstract_or_final(module: str) -> None:
    import_module("certsnn.results.counterexample")  # derives from an error
    classes = {name: value for name, value in defined(module) if inspect.isclass(value)}
    assert not [name for name, cls in classes.items() if not closed(cls)]


PUBLIC = {"certsnn.bounds.certify", "certsnn.data.digits", "certsnn.models.pretrained"}
"""Functions of the public interface that bear the names of their modules."""


def test_no_name_hides_the_module_of_that_name() -> None:
    found = {name: import_module(name) for name in modules()}
    packages = {name: name.rpartition(".") for name in found if "." in name}
    hidden = {
        name
        for name, (package, _, own) in packages.items()
        if getattr(found[package], own) is not found[name]
    }
    assert hidden == PUBLIC


def test_files_of_tests_have_names_of_their_own() -> None:
    names = Counter(path.name for path in (ROOT / "tests").rglob("*.py"))
    assert not [name for name, times in names.items() if times > 1]  # pytest imports them by these


@pytest.mark.parametrize("place", [*PLACES, "tests", "benchmarks"])
def test_files_and_functions_are_short(place: str) -> None:
    found = {path: path.read_text(encoding="utf-8") for path in (ROOT / place).rglob("*.py")}
    assert not [path for path, text in found.items() if text.count("\n") > 400]
    functions = [
        (path, node.name, (node.end_lineno or 0) - node.lineno + 1)
        for path, text in found.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef)
    ]
    assert not [function for function in functions if function[-1] > 50]
