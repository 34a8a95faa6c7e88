"""The packaging: every folder of modules is installed, under the import name it should have."""

from __future__ import annotations

import subprocess
import sys
from configparser import ConfigParser
from importlib import import_module, metadata
from pathlib import Path
from shutil import copy

import pytest

import certsnn
from certsnn import errors

ROOT = Path(__file__).resolve().parents[2]
PLACES = {"certsnn": "certsnn", "bounds": "certsnn.bounds", "train": "certsnn.train"}


def declared() -> ConfigParser:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def folders_with_modules() -> dict[str, Path]:
    """Import name to folder, for every folder that holds a Python file."""
    found = {}
    for place, package in PLACES.items():
        for folder in {path.parent for path in (ROOT / place).rglob("*.py")}:
            found[".".join((package, *folder.relative_to(ROOT / place).parts))] = folder
    return found


def test_setup_cfg_lists_every_package() -> None:
    packages = declared()["options"]["packages"].split()
    assert len(packages) == len(set(packages))
    assert set(packages) == set(folders_with_modules())


def test_every_package_has_an_init_file() -> None:
    missing = [str(f) for f in folders_with_modules().values() if not (f / "__init__.py").is_file()]
    assert not missing


@pytest.mark.parametrize("name", sorted(folders_with_modules()))
def test_packages_import_from_their_folder(name: str) -> None:
    package = import_module(name)
    parts = name.split(".")
    assert package.__file__ is not None
    folder = Path(package.__file__).parent
    # An installed copy has them all inside certsnn/, a checkout has bounds/ and train/ at the top.
    assert folder == folders_with_modules()[name] or folder.parts[-len(parts) :] == tuple(parts)


def test_version_is_the_installed_one() -> None:
    assert metadata.version("certsnn") == certsnn.__version__


def test_typed_marker_is_packaged() -> None:
    assert (ROOT / "certsnn" / "py.typed").is_file()
    assert "py.typed" in declared()["options.package_data"]["certsnn"].split()


@pytest.mark.parametrize("error", [errors.DataNotFound, errors.CheckpointError, errors.ConfigError])
def test_specific_errors_are_user_errors(error: type[errors.UserError]) -> None:
    assert issubclass(error, errors.UserError)


def test_a_source_folder_alone_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "certsnn").mkdir()
    copy(ROOT / "certsnn" / "__init__.py", tmp_path / "certsnn")
    # Without -S an installed copy would lend it what it lacks.
    words = [sys.executable, "-S", "-c", "import certsnn"]
    found = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert "is certsnn's source folder, which is no whole package" in found.stderr
