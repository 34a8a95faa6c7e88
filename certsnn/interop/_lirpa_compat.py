"""Import auto_LiRPA, and lend its version 0.3 the names that later torch and numpy have dropped.

PyPI has 0.3 only (2022, for torch < 1.13). It imports ``numpy.lib.arraysetops.isin`` and
``torch.onnx.symbolic_helper._set_opset_version`` and indexes nodes of a traced graph. `borrowing` puts these
in place, where they are missing, for the time of an import or a conversion, and takes them away again.
Other versions (0.4 and later, from source) get nothing lent; they are not tested.
"""

from __future__ import annotations

import importlib
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import metadata
from types import ModuleType
from typing import Any, final

import numpy as np
import torch
import torch.onnx.symbolic_helper

from certsnn.errors import UserError

INSTALL = "pip install --no-deps auto_LiRPA==0.3 tqdm appdirs"
_RECURSION = 1_000_000
_NEEDED = ("auto_LiRPA", "tqdm", "appdirs")


def load() -> ModuleType:
    """The package auto_LiRPA, imported on the first call.

    Raises:
        UserError: if it is not installed.
    """
    try:
        with hosting(), borrowing():
            return importlib.import_module("auto_LiRPA")
    except ModuleNotFoundError as error:
        if error.name not in _NEEDED:
            raise
        raise UserError(f"the methods auto-lirpa need {error.name}; install it with: {INSTALL}") from error


@contextmanager
def hosting() -> Iterator[None]:
    """Run the package's code: quietly, as deep as it recurses, and with the process left as it was.

    It recurses through the graph of all steps. Its import adds a handler to the root logger, resets the
    filters of warnings, lifts the limit of recursion, and turns torch.jit's profiling off.
    """
    handlers, disabled = list(logging.root.handlers), logging.root.manager.disable
    limit = sys.getrecursionlimit()
    logging.disable(logging.WARNING)
    sys.setrecursionlimit(max(limit, _RECURSION))
    try:
        # Recorded, not ignored: the package sets filters of its own, which show warnings.
        with warnings.catch_warnings(record=True), _profiling_kept():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.setrecursionlimit(limit)
        logging.disable(disabled)
        logging.root.handlers[:] = handlers


@contextmanager
def borrowing() -> Iterator[None]:
    """For version 0.3: the names that it misses in numpy and torch. For other versions: nothing."""
    with ExitStack() as stack:
        if _version() == "0.3":
            stack.enter_context(_arraysetops())
            # The export's own opset does: none of the operators used here changed since the 12 asked for.
            helper: Any = torch.onnx.symbolic_helper
            stack.enter_context(_attribute(helper, "_set_opset_version", lambda opset: None))
            stack.enter_context(_attribute(torch._C.Node, "__getitem__", _node_attribute))
        yield


def bounded_module(package: ModuleType) -> Any:
    """auto_LiRPA's BoundedModule, as a class whose parameters today's torch can list."""
    base: Any = package.BoundedModule
    if _version() != "0.3":
        return base

    @final
    class BoundedModule(base):
        """auto_LiRPA's class, with torch's present signature of one method."""

        def _named_members(
            self, get_members_fn: Any, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
        ) -> Any:
            """As in torch; duplicates are always removed."""
            return super()._named_members(get_members_fn, prefix, recurse)

    return BoundedModule


def _version() -> str | None:
    """The installed version of auto_LiRPA; None for a checkout on the path."""
    try:
        return metadata.version("auto_LiRPA")
    except metadata.PackageNotFoundError:  # a checkout on the path
        return None


def _node_attribute(node: Any, name: str) -> Any:
    """An attribute of a traced node."""
    return getattr(node, node.kindOf(name))(name)


@contextmanager
def _attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    """``owner.name = value`` where it has no such attribute."""
    missing = not hasattr(owner, name)
    if missing:
        setattr(owner, name, value)
    try:
        yield
    finally:
        if missing:
            delattr(owner, name)


@contextmanager
def _arraysetops() -> Iterator[None]:
    """The module ``numpy.lib.arraysetops``, private since numpy 2."""
    name = "numpy.lib.arraysetops"
    if np.lib.NumpyVersion(np.__version__) < "2.0.0":
        yield
        return
    module: Any = ModuleType(name)
    module.isin = np.isin
    sys.modules[name] = module
    try:
        yield
    finally:
        del sys.modules[name]


@contextmanager
def _profiling_kept() -> Iterator[None]:
    """torch.jit's profiling settings as they were."""
    setters: list[Any] = [torch._C._jit_set_profiling_executor, torch._C._jit_set_profiling_mode]
    before = [setter(True) for setter in setters]
    for setter, value in zip(setters, before, strict=True):
        setter(value)
    try:
        yield
    finally:
        for setter, value in zip(setters, before, strict=True):
            setter(value)
