"""Tests the page over all passes: what it says, where it links to, and that it is a page."""

import html.parser
import re

import html5lib
import pytest

from retrain import ledger
from retrain.index import write_index


class _Links(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.tags = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.found += [dict(attributes)["href"]] if tag == "a" else []


def write_log(folder):
    """Writes a log of four decisions, and the pages of two of them; returns the registry."""
    root, runs = folder / "models", folder / "runs"
    for name in ("a", "b.data"):
        (runs / name).mkdir(parents=True)
    (runs / "a" / "report.html").write_text("report")
    (runs / "b.data" / "gate-data.html").write_text("gate")
    (runs / "b.data" / "gate-model.html").write_text("gate")
    decided = [
        {"decision": "promoted", "run": f"{runs}/a", "figures": {"accuracy": 0.9, "test_images": 200}, "model": 1,
         "champion_after": 1},
        {"decision": "held", "run": f"{runs}/b", "reasons": ["labels: gone: <b>dog</b>"], "champion_after": 1},
        {"decision": "inconclusive", "run": f"{runs}/b", "figures": {"accuracy": 0.88, "test_images": 210},
         "champion_after": 1},
        {"decision": "rolled back", "reasons": ["日本語 ☂"], "who": "me@here", "champion_after": 1},
    ]  # fmt: skip
    for day, record in enumerate(decided, start=1):
        noted = {"time": f"2026-01-0{day}T03:17:00+00:00", "reasons": ["so"], "dataset": "/d/versions/1.0.7"}
        ledger.append_decision(str(root), noted | record)
    return root


@pytest.fixture
def passes(tmp_path):
    return write_log(tmp_path)


def test_the_newest_comes_first_with_interval_and_reason(passes):
    write_index(str(passes))
    text = (passes / "index.html").read_text(encoding="utf-8")
    html5lib.HTMLParser(strict=True).parse(text)
    assert re.findall(r"<b>(2026-\S+)", text) == [f"2026-01-0{day}" for day in (4, 3, 2, 1)]
    assert "90.0\u00a0% right (85\u00a0% to 93\u00a0%) of 200 test images, data 1.0.7" in text
    assert "labels: gone: &lt;b&gt;dog&lt;/b&gt;" in text
    assert "日本語 ☂ · me@here" in text
    assert text.count("<circle") == 2
    assert "script" not in _Links(text).tags


def test_links_lead_to_what_is_there(passes):
    write_index(str(passes))
    links = _Links((passes / "index.html").read_text(encoding="utf-8")).found
    assert links == [
        "../runs/b.data/gate-data.html", "../runs/b.data/gate-model.html", "../runs/b.data/gate-data.html",
        "../runs/b.data/gate-model.html", "../runs/a/report.html",
    ]  # fmt: skip
    (passes / "1").mkdir()
    (passes / "1" / "report.html").write_text("published")
    write_index(str(passes))
    assert _Links((passes / "index.html").read_text(encoding="utf-8")).found[-1] == "1/report.html"


def test_a_registry_without_decisions_has_a_page(tmp_path):
    (tmp_path / "models").mkdir()
    write_index(str(tmp_path / "models"))
    assert "0 decisions" in (tmp_path / "models" / "index.html").read_text()
