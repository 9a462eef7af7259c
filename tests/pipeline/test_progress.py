"""Tests of how counting images is shown: in a log line by line, on a terminal as a bar that goes at the end."""

import re
import sys
import textwrap

import pytest

from pipeline.progress import ImageCount, counted, duration
from tests.terminals import on_terminal

LINE = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "10 s"), (38, "40 s"), (56, "1 min"), (200, "3 min"), (3600, "1 h"), (7800, "2 h 10 min"), (86_400, "24 h")],
)
def test_durations_are_rough(seconds, text):
    assert duration(seconds) == text


def test_a_log_is_told_now_and_then_how_many_of_how_many_how_fast_and_what_is_left(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    assert list(counted(_ticking(clock, 100), "looking", total=None)) == list(range(100))
    shown = ImageCount("writing", sys.stderr, at_most=True)
    for count in (0, 10, 20):
        clock[0] += 40
        shown.show(count, 1000)
    shown.close()
    lines = [re.sub(rf"^{LINE}", "", line) for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "looking: 31 images, 1.0/s",
        "looking: 61 images, 1.0/s",
        "looking: 91 images, 1.0/s",
        # Nothing of the first 40 s, in which none was done.
        "writing: 10 of at most 1000 images, 0.1/s, 2 h 10 min left at most",
        "writing: 20 of at most 1000 images, 0.2/s, 1 h 40 min left at most",
    ]


def _ticking(clock, count):
    for item in range(count):
        yield item
        clock[0] += 1


def test_few_images_are_not_worth_a_line(capsys, monkeypatch):
    monkeypatch.setattr("pipeline.progress._SECONDS_BETWEEN_LINES", 0.0)
    assert list(counted("abc", "looking", total=3)) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""


def test_a_terminal_shows_a_bar_until_the_end():
    code = """
        import sys, time
        from pipeline.progress import counted
        for _ in counted(range(40), "looking", total=int(sys.argv[1])):
            time.sleep(0.01)
        print("done")
    """
    found = on_terminal([sys.executable, "-c", textwrap.dedent(code), "40"])
    assert found.code == 0, found.raw
    assert re.search(r"looking: +\d+%\|.*\| \d+/40 .* images/s\]", found.raw)
    assert [line.strip() for line in found.screen if line.strip()] == ["done"]
