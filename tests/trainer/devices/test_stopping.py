"""Tests what signals do to a run, by real ones."""

import os
import signal
import threading

import pytest

from pipeline.command import TryAgainError
from trainer.devices import notices
from trainer.devices.stopping import listening

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_means_afterwards_what_it_did_before(number):
    before = [signal.getsignal(one) for one in SIGNALS]
    with listening(on_cloud=False) as wishes:
        assert not wishes.stop
        os.kill(os.getpid(), number)
        assert wishes.stop
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(one) for one in SIGNALS] == before


def test_where_nothing_is_to_be_saved_a_signal_ends_the_block():
    def stopped():
        with wishes.at_once():
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("goes on")

    with listening(on_cloud=False) as wishes, pytest.raises(TryAgainError, match="stopped on request"):
        stopped()


def test_what_was_wished_before_ends_the_block_where_it_begins():
    with listening(on_cloud=False) as wishes:
        wishes.on_notice(notices.PREEMPTED)
        with pytest.raises(TryAgainError), wishes.at_once():
            pytest.fail("goes on")


def test_a_notice_of_maintenance_saves_once_and_stops_nothing():
    with listening(on_cloud=False) as wishes:
        wishes.on_notice(notices.MAINTENANCE)
        assert [wishes.save(), wishes.save(), wishes.stop] == [True, False, False]


def test_another_thread_runs_without_signals():
    found = []

    def run():
        with listening(on_cloud=False) as wishes, wishes.at_once():
            found.append((wishes.stop, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [(False, signal.getsignal(signal.SIGTERM))]
