"""The HTML report: what it says, that it is whole by itself, and how a browser takes it."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from certsnn.attacks import FGSM, RandomSearch
from certsnn.bounds import layer_bounds
from certsnn.cli.app import main
from certsnn.data import load, loader
from certsnn.evaluation import evaluate
from certsnn.evaluation.verification import SampleResult
from certsnn.inputsets import LinfBall
from certsnn.models import load_model
from certsnn.report import charts, pictures
from certsnn.report.examples import Example, examples
from certsnn.report.stability import stability

IMAGES = ["--attacks", "FGSM,{class_path: RandomSearch, tries: 5}", "--sweep", "0.02,0.1", "--samples", "80"]
SPIKES = ["--attacks", "G2S", "--samples", "60"]


@pytest.fixture(scope="module")
def page_of_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "report.html"
    assert main(["evaluate", "digits-eps0.05", *IMAGES, "--report", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def page_of_spikes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spikes") / "report.html"
    assert main(["evaluate", "digits-coupled0.05", *SPIKES, "--report", str(path)]) == 0
    return path


@pytest.fixture(params=["images", "spikes"])
def page(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(f"page_of_{request.param}")
    return path


class Outline(HTMLParser):
    """Headings, pictures, ids and what refers to them; fails on tags that are not closed in order."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.pictures: list[str | None] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.sources: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(tag)
        if tag in ("img", "svg"):
            self.pictures.append(given.get("alt") or given.get("aria-label"))
        self.ids += [given["id"] or ""] if "id" in given else []
        self.references += [given["aria-labelledby"] or ""] if "aria-labelledby" in given else []
        self.sources += [given[name] or "" for name in ("src", "href", "xlink:href") if name in given]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_from_outside(page: Path) -> None:
    text = page.read_text()
    assert not re.search(r"https?:|//[a-z]", re.sub(r"data:[^\"']*", "", text))
    assert not re.search(r"<script|@import|url\((?!#)", text)
    for source in Outline(text).sources:
        assert source.startswith(("data:", "#")), source
    assert page.stat().st_size < 2**20


def test_the_page_can_be_read_without_seeing_it(page: Path) -> None:
    outline = Outline(page.read_text())
    assert outline.headings[0] == "h1"
    assert outline.headings.count("h1") == 1
    for one, other in zip(outline.headings, outline.headings[1:], strict=False):
        assert int(other[1]) <= int(one[1]) + 1
    assert all(outline.pictures)
    assert len(outline.pictures) >= 6
    assert len(outline.ids) == len(set(outline.ids))
    assert set(outline.references) <= set(outline.ids)


def test_every_reference_inside_a_chart_is_met(page: Path) -> None:
    outline = Outline(page.read_text())
    inner = {source[1:] for source in outline.sources if source.startswith("#")}
    inner |= set(re.findall(r"url\(#([^)]*)\)", page.read_text()))
    assert inner
    assert inner <= set(outline.ids)


def test_what_the_page_says(page_of_images: Path, page_of_spikes: Path) -> None:
    text = page_of_images.read_text()
    for words in (
        "digits-eps0.05 under LinfBall(eps=0.05)",
        "The first 80 samples of the test set of digits",
        "Errors in percent for each eps",
        "FGSM(loss=CrossEntropy())",
        "RandomSearch(tries=5)",
        " samples that the network gets right",
        "pixels moved, by at most 0.05",
        "architecture: digits-fc",
        "prefers-color-scheme: dark",
        "change per pixel",
    ):
        assert words in text, words
    text = page_of_spikes.read_text()
    assert "Accuracy over the size" not in text
    assert "flipped share" in text
    assert re.search(r"\d+ spikes added, \d+ dropped", text)


def test_charts_take_the_page_s_ink() -> None:
    results = [SampleResult(i, 0, True, "certified", 0.1 * i, "s-ibp") for i in range(1, 5)]
    text = charts.svg(charts.margins(results), 'Four "samples" & more')
    root = ElementTree.fromstring(text.replace("xlink:href", "href"))
    assert root.get("aria-label") == 'Four "samples" & more'
    assert charts.INK not in text
    assert "currentColor" in text
    assert text == charts.svg(charts.margins(results), 'Four "samples" & more'), "the same each time"


def test_margins_may_be_unknown_or_all_the_same() -> None:
    none = SampleResult(0, 0, True, "error", float("-inf"), "s-ibp")
    zero = SampleResult(0, 0, True, "unknown", 0.0, "s-ibp")
    for results in ([none], [zero], [none, zero]):
        assert charts.svg(charts.margins(results), "x").startswith("<svg")


def test_stability_counts_what_the_bounds_decide() -> None:
    model = load_model("digits-eps0.05")
    data = load("digits", "test").head(30)
    found = stability(model.network, loader(data, 7), LinfBall(0.05))
    assert [layer.neurons for layer in found] == [128, 128]
    x, _, _ = data[range(30)]
    for layer, bounds in zip(
        found, layer_bounds(model.network, x, LinfBall(0.05), rounding=True), strict=True
    ):
        lower, upper = bounds.spikes
        for step in range(4):
            assert layer.silent[step] == pytest.approx(100 * (upper[step] == 0).double().mean())
            assert layer.firing[step] == pytest.approx(100 * (lower[step] == 1).double().mean())
            assert 0 < layer.unstable[step] < 100
    exact = stability(model.network, loader(data, 30), LinfBall(0.0), rounding=False)
    assert all(share < found[0].unstable[0] for share in exact[0].unstable)


def test_examples_are_broken_samples_of_different_classes() -> None:
    model, data = load_model("digits-eps0.05"), load("digits", "test").head(200)
    data = data.subset(torch.arange(199, 20, -1))  # positions are not indices
    threat, attacks = LinfBall(0.1), [FGSM(), RandomSearch(tries=3)]
    report = evaluate(model.network, loader(data, 64), threat, attacks=attacks)
    found = examples(model.network, data, threat, attacks, report.results, count=5)
    assert len({example.label for example in found}) == 5
    whole = load("digits", "test")
    for example in found:
        x, y, _ = whole[[example.index]]
        assert torch.equal(example.before, x[0])
        assert example.label == int(y)
        assert threat.contains(x, example.after[None]).all()
        assert int(model.network(example.after[None]).argmax()) in (example.answer, example.label)
        assert example.answer != example.label


def test_pictures() -> None:
    assert pictures.picture(torch.rand(5)).shape == (1, 5)
    assert pictures.picture(torch.rand(4, 5)).shape == (4, 5)
    assert pictures.picture(torch.rand(1, 4, 5)).shape == (4, 5)
    assert pictures.picture(torch.rand(2, 4, 5)).shape == (4, 5)
    assert pictures.picture(torch.rand(3, 4, 5)).shape == (4, 5, 3)
    spikes = torch.zeros(2, 1, 1, 3)
    spikes[0, 0, 0, 0] = 1
    other = spikes.clone()
    other[0, 0, 0, 0], other[1, 0, 0, 2] = 0, 1
    example = Example(3, 1, 2, "G2S()", spikes, other, True)
    assert pictures.flips(example) == (1, 1)
    assert pictures.before(example).tolist() == [[0.5, 0, 0]]
    assert pictures.change(example).tolist() == [[0, 0.5, 1]]
    assert pictures.data_uri(pictures.after(example)).startswith("data:image/png;base64,")
    same = Example(3, 1, 2, "G2S()", spikes, spikes, True)
    assert pictures.change(same).tolist() == [[0.5, 0.5, 0.5]]


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_the_page_without_complaint(page: Path, scheme: str, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium here; on Debian: apt-get install chromium")
    picture, log = tmp_path / "page.png", tmp_path / "net.json"
    command = [
        chromium,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-component-update",
        "--no-first-run",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
        "--enable-logging=stderr",
        f"--log-net-log={log}",
        "--window-size=900,3000",
        "--hide-scrollbars",
    ]
    done = subprocess.run(
        [*command, f"--screenshot={picture}", page.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr, done.stderr
    shown = pixels(picture)
    paper = shown[5, 5].sum() / 3  # a margin of the page
    assert (paper < 0.2) if scheme == "dark" else (paper > 0.9)
    assert shown.std() > 0.05, "the page is not blank"
    # The page itself comes from the disk; Chromium's own errands go to Google's hosts.
    fetched = set(re.findall(r'"(?:url|original_url)":"(https?://[^"]*)"', log.read_text()))
    assert not {url for url in fetched if not re.match(r"https?://[^/]*(google|gvt1)[^/]*\.com/", url)}


def pixels(path: Path) -> torch.Tensor:
    """A picture [H, W, 3] of values in [0, 1]."""
    from matplotlib.image import imread

    return torch.from_numpy(imread(path))[..., :3].double()
