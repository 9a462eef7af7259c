"""Tests what is made of a server's wish to be left alone for a while."""

import random
import time

import pytest

from beam_jobs.download.errors import parse_retry_after
from beam_jobs.download.loop import backoff
from beam_jobs.download.policy import DownloadPolicy


@pytest.fixture
def far_from_utc(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("far_from_utc")
def test_retry_after_values():
    now = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT
    assert parse_retry_after("120", now=now) == 120
    assert parse_retry_after("Tue, 14 Nov 2023 22:14:20 GMT", now=now) == 60
    assert parse_retry_after("Tue, 14 Nov 2023 22:12:20 GMT", now=now) == 0
    assert parse_retry_after("soon", now=now) is None
    assert parse_retry_after(None, now=now) is None
    assert parse_retry_after("Tue Nov 14 22:14:20 2023", now=now) == 60  # the oldest form, UTC without saying so
    assert parse_retry_after("Tue, 14 Nov 2023 22:14:20 -0000", now=now) == 60


ODD_WAITS = [
    "-5",
    "1e9",
    "1000000000",
    "9" * 60_000,
    "nan",
    "inf",
    "0x10",
    " 7 ",
    "7.5",
    "٣",
    "²",
    "",
    ";",
    ",",
    "12:00",
    "\udcff",
]
ODD_WAITS += ["Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 GMT", "Mon, 01 Jan 1601 00:00:00 GMT"]
ODD_WAITS += ["Tue, 14 Nov 99999 22:14:20 GMT", "Tue, 99 Nov 2023 99:99:99 GMT", "Tue, 14 Nov 2023 22:14:20 +9999"]
ODD_WAITS += [
    "Tue, 14 Nov 2023 22:14:20 " + "9" * 5000,
    "Tue, " + "1" * 5000 + " Nov 2023 22:14:20 GMT",
    "( " * 1000,
    "\0",
]


def test_no_retry_after_makes_us_wait_longer_than_the_cap():
    chance = random.Random(5)
    date = "Tue, 14 Nov 2023 22:14:20 GMT"
    broken = ["".join(chance.choice([char, char, char, "9", "", "-", ":", " "]) for char in date) for _ in range(3000)]
    policy = DownloadPolicy(max_wait_seconds=60)
    for value in ODD_WAITS + broken:
        wait = parse_retry_after(value, now=1_700_000_000.0)
        assert wait is None or wait >= 0, value
        assert 0 <= backoff(1, policy, retry_after=wait, chance=0.0) <= 60, value
