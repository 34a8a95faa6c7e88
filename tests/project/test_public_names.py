"""What `import certsnn` offers: the public names, from their modules, without importing torch for it."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import certsnn

SECONDS = 0.5
"""Of the import alone. It takes a tenth of this on an idle machine; with torch it takes a second or more."""


def homes() -> dict[str, str]:
    return {name: f"certsnn.{home}" for home, names in certsnn.HOMES.items() for name in names.split()}


@pytest.mark.parametrize(("name", "home"), homes().items())
def test_a_public_name_is_documented_and_the_one_of_its_module(name: str, home: str) -> None:
    module, found = import_module(home), getattr(certsnn, name)
    assert found is getattr(module, name)
    assert name in getattr(module, "__all__", [name])
    assert vars(found)["__doc__"] if inspect.isclass(found) else inspect.getdoc(found)


def test_all_names_each_public_name_once() -> None:
    assert sorted(certsnn.__all__) == sorted(homes())
    assert set(certsnn.__all__) | {"__version__"} <= set(dir(certsnn))


def test_type_checkers_see_the_same_names_from_the_same_modules() -> None:
    assert certsnn.__file__ is not None
    tree = ast.parse(Path(certsnn.__file__).read_text(encoding="utf-8"))
    block = next(
        node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    seen = {
        alias.asname: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == homes()


def test_an_unknown_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'certsnn' has no attribute 'LIIF'"):
        getattr(certsnn, "LIIF")  # noqa: B009
    assert not hasattr(certsnn, "torch")


def test_the_import_is_quick_and_leaves_torch_alone() -> None:
    program = (
        "import sys, time; begun = time.perf_counter(); import certsnn; took = time.perf_counter() - begun; "
        "heavy = {'torch', 'numpy', 'matplotlib'} & {*sys.modules}; assert not heavy, heavy; print(took); "
        "certsnn.LIF; assert 'torch' in sys.modules"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert float(found.stdout) < SECONDS
