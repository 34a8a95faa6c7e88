"""Every link, anchor, path and dotted name in the README and docs leads somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
PLACES = "benchmarks|bounds|certsnn|configs|docs|tests|train"
PATH = re.compile(rf"(?<![\w./-])(?:{PLACES})(?:/[\w.-]+)*/[\w-]+(?:\.[\w-]+)*(?:/|\b)")
DOTTED = re.compile(r"(?<![\w./-])certsnn(?:\.[A-Za-z_]\w*)+")
"""Files that a page may name although they are not there yet."""


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """The page without its blocks of code, in which links, headings and paths are not meant."""
    return re.sub(r"^(```|~~~).*?^\1", "", text_of(page), flags=re.DOTALL | re.MULTILINE)


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: list[str] = []
    for title in re.findall(r"^#{1,6} +(.+?) *#*$", prose(page), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "")
        anchor = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        times = sum(re.fullmatch(rf"{re.escape(anchor)}(?:-\d+)?", other) is not None for other in found)
        found.append(anchor if not times else f"{anchor}-{times}")
    return frozenset(found)


def links(page: Path) -> Iterator[str]:
    return (link for link in LINK.findall(prose(page)) if not re.match(r"[a-z]+:", link))


def paths(page: Path) -> Iterator[str]:
    """Repository paths in the prose and in the commands; patterns such as NAME.py are left out."""
    unlinked = re.sub(LINK, lambda match: match[0].split("](")[0], text_of(page))
    unlinked = re.sub(r"https?://\S+", "", unlinked)
    for found in PATH.findall(unlinked):
        if not re.search(r"/[A-Z]+(?:[./]|$)", found):
            yield found


def exists(path: str) -> bool:
    """Whether it is there: a file, with its ending or without, or a folder."""
    place = ROOT / path
    return place.exists() or any(place.parent.glob(f"{place.name}.*"))


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    try:
        resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / unquote(path)).resolve() if path else page
        there = target.exists() and target.is_relative_to(ROOT)
        if not there or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert not dead


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_paths_exist(page: Path) -> None:
    assert not [path for path in paths(page) if not exists(path)]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_dotted_names_import(page: Path) -> None:
    assert not [name for name in sorted(set(DOTTED.findall(text_of(page)))) if not resolves(name)]


def test_the_index_names_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    named = {(index.parent / link.partition("#")[0]).resolve() for link in links(index)}
    assert set(PAGES) - {index} <= named
