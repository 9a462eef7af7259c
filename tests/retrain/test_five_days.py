"""Tests five days of retraining with the real commands on real photos, as examples/five_days.sh tells them."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "examples" / "five_days.sh"


@pytest.mark.slow
def test_good_days_are_promoted_and_bad_ones_are_held(tmp_path, shared_data):
    work = tmp_path / "work"
    done = subprocess.run(
        ["sh", SCRIPT, shared_data / "flowers", work],
        env={**os.environ, "PYTHON": sys.executable, "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
        check=False,
        timeout=3_000,
    )
    days = dict(re.findall(r"^== (.+): exit (\d+, \w+:.*)$", done.stdout, re.MULTILINE))
    assert days["day 1, the first photos"].startswith("0, promoted: first model"), done.stdout + done.stderr
    assert days["day 1 again, nothing new"].startswith("99, unchanged: nothing changed since")
    assert days["day 2, more photos"].startswith(("0, promoted", "99, inconclusive", "99, not_promoted"))
    # A pass that was over before it could be killed is not told again in full.
    over = "65, held: nothing changed"
    assert days["day 3, most new photos in a wrong folder"].startswith(("65, held: label noise: ", over))
    assert days["day 4, a class has vanished"].startswith(("65, held: labels: gone: daisy; if that is meant, ", over))
    assert days["day 5, all is well again"].startswith(("0, promoted", "99, inconclusive", "99, not_prom"))
    assert done.stdout.count("-- killed after") >= 3, "a pass that was over before its moment came is not killed"
    decisions = [json.loads(line) for line in (work / "models" / "decisions.jsonl").read_text().splitlines()]
    held = [one["reasons"] for one in decisions if one["decision"] == "held"]
    assert len(held) == 2
    assert any(reason.startswith("label noise: ") for reason in held[0])
    assert any(reason.startswith("labels: gone: ") for reason in held[1])
    pages = sorted(path for path in (work / "runs").glob("*.data/gate-data.html"))
    assert sum("Held: nothing is trained on these data" in page.read_text(encoding="utf-8") for page in pages) == 2
    if (work / "models" / "2").exists():
        assert days["after a roll-back, nothing new"].startswith("99, unchanged")


@pytest.mark.parametrize(("arguments", "message"), [((), "usage:"), (("none", "work"), "none: no such folder")])
def test_what_the_script_needs_is_said(tmp_path, arguments, message):
    done = subprocess.run(["sh", SCRIPT, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert message in done.stderr
    assert not list(tmp_path.iterdir())
