import itertools

import pytest

from trainer.quickstart.outlook import BUILD, CHECK, EPOCH, HEAD, TUNING, Outlook


def outlook(**slowness):
    return Outlook(images=800, side=224, epochs=6, slowness=slowness)


def test_what_was_timed_counts_and_stands_for_what_was_not():
    guessed, timed = outlook(), outlook(check=2.0)
    assert timed.seconds(CHECK) == 2 * guessed.seconds(CHECK)
    assert timed.seconds(HEAD) == 2 * guessed.seconds(HEAD)
    assert timed.seconds(TUNING) == 2 * guessed.seconds(TUNING)
    assert outlook(check=2.0, epoch=3.0).seconds(EPOCH) == 3 * guessed.seconds(EPOCH)
    assert guessed.total((BUILD, CHECK)) == guessed.seconds(BUILD) + guessed.seconds(CHECK)


@pytest.mark.parametrize("slowness", [0.1, 1.0, 7.5])
def test_as_many_epochs_as_fit_and_not_one_more(slowness):
    found = outlook(head=slowness, epoch=slowness)
    for seconds in range(0, 3000, 7):
        epochs = found.epochs_within(seconds)
        assert 0 <= epochs <= 6
        assert not epochs or found.tuning(epochs) <= seconds
        assert epochs == 6 or found.tuning(epochs + 1) > seconds


def test_small_pictures_take_less_and_more_images_take_more():
    times = [Outlook(images=n, side=side, epochs=6, slowness={}).total((BUILD, CHECK, HEAD))
             for n, side in ((100, 64), (100, 224), (800, 224), (5000, 224))]  # fmt: skip
    assert all(less < more for less, more in itertools.pairwise(times))
