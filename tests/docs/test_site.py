"""Builds the documentation as `make docs` does, and looks at what came of it."""

import dataclasses
import html.parser
import importlib.util
import pathlib
import re
import subprocess
import sys

import pytest

from scripts.docs import commands, generated, models
from scripts.docs.keys import keys
from trainer.models.backbones import BACKBONES

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
ALIASES = {"trainer.preview"}  # users know it as pipeline.preview


class Links(html.parser.HTMLParser):
    """Collects what a page loads by itself, and where it leads."""

    def __init__(self, text):
        super().__init__()
        self.loaded, self.led = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag in ("script", "img", "source", "iframe") and found.get("src"):
            self.loaded.append(found["src"])
        elif tag == "link" and found.get("rel") in ("stylesheet", "preload", "icon"):
            self.loaded.append(found["href"])
        elif tag == "a" and found.get("href"):
            self.led.append(found["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if importlib.util.find_spec("sphinx") is None:
        pytest.skip("Sphinx is not installed (pip install '.[docs]')")
    output = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", str(DOCS), str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return output


def test_nothing_is_loaded_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    loaded = {source for page in pages for source in Links(page.read_text(encoding="utf-8")).loaded}
    assert len(pages) > 30
    assert loaded
    assert not [source for source in loaded if source.startswith(("http", "//"))]
    assert not re.findall(r"url\(['\"]?(?:https?:)?//", "".join(p.read_text() for p in site.rglob("*.css")))


def test_every_page_is_reached_from_the_first(site):
    seen, waiting = set(), [site / "index.html"]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        for link in Links(page.read_text(encoding="utf-8")).led:
            file = link.partition("#")[0]
            if file.endswith(".html") and "://" not in file:
                waiting.append((page.parent / file).resolve())
    written = {site / page.relative_to(DOCS).with_suffix(".html") for page in DOCS.rglob("*.md")}
    assert written <= seen


def test_every_command_has_a_page_with_its_flags(site):
    known = commands.read()
    assert {page.stem for page in (DOCS / "commands").glob("*.md")} - {"index"} == set(known) - ALIASES
    for name in set(known) - ALIASES:
        page = (site / "commands" / f"{name}.html").read_text(encoding="utf-8")
        for flag in known[name]["flags"]:
            no = "[no]" if flag["type"] == "bool" else ""
            assert f"--{no}{flag['name']}</span>" in page, f"{name} --{flag['name']}"


def test_every_key_of_every_setting_has_a_meaning():
    """`keys` raises where one has none."""
    for kind, prefix in generated.SETTINGS.values():
        found = list(keys(kind, prefix))
        assert [key.name for key in found] == [prefix + field.name for field in dataclasses.fields(kind)]


def test_a_key_without_a_meaning_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Config:
        """Configures nothing.

        Attributes:
          told: what this is.
        """

        told: int = 1
        untold: int = 2

    with pytest.raises(KeyError, match=r"Config\.untold has no meaning"):
        list(keys(Config))


def test_meanings_types_and_defaults_are_those_of_the_code():
    found = {key.name: key for what in ("recipe", "phase", "augment") for key in keys(*generated.SETTINGS[what])}
    assert (found["label_smoothing"].kind, found["label_smoothing"].default) == ("float", "0.0")
    assert found["phases.0.decay_every"].default == "1ep"
    assert found["phases.0.trainable"].default == '[[".*", 1.0]]'
    assert found["batch_size"].default is None
    assert found["augment.cutmix"].meaning.startswith("alpha of the Beta distributions")
    assert found["phases.0.trainable"].meaning.endswith("they must cover every variable of the model.")


def test_every_backbone_has_a_row_of_figures():
    figures = models.measured()
    assert figures.keys() == BACKBONES.keys()
    assert all(re.fullmatch(r"\d+ \(\d+ to \d+\)", milliseconds) for milliseconds, _ in figures.values())
