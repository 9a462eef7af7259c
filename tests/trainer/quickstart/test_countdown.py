import json

import pytest

from trainer.quickstart import countdown
from trainer.quickstart.countdown import Countdown, epochs_done
from trainer.quickstart.memory import Memory
from trainer.quickstart.outlook import CHECK, END, EPOCH, HEAD, START, STOPPED, TUNING, Outlook
from trainer.quickstart.talk import Talk


class Clock:
    """Stands for the clock, which tests move on."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(countdown, "time", clock)
    return clock


@pytest.fixture
def shown(monkeypatch):
    """Collects what is said to be done."""
    texts = []
    monkeypatch.setattr(Talk, "doing", lambda self, text: texts.append(text))
    return texts


def made(tmp_path, *, budget=None, **slowness):
    memory = Memory(file=str(tmp_path / "quickstart.json"), slowness=slowness)
    return Countdown(Outlook(images=800, side=224, epochs=6, slowness=slowness), memory, Talk(), budget=budget)


def write_epochs(run, count):
    run.mkdir(exist_ok=True)
    rows = [{"phase": "head", "split": split} for split in ("cross_validation", "train", "validation")]
    rows += [{"phase": "upper", "split": split} for _ in range(count) for split in ("train", "train_sample")]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_epochs_of_fine_tuning_are_counted_and_half_a_file_counts_for_none(tmp_path):
    assert epochs_done(str(tmp_path)) == 0
    for count in (0, 1, 4):
        write_epochs(tmp_path / "run", count)
        assert epochs_done(str(tmp_path / "run")) == count
    (tmp_path / "run" / "metrics.jsonl").write_text('{"phase": "head", "sp')
    assert epochs_done(str(tmp_path / "run")) == 0


def test_what_a_step_took_tells_of_those_after_it(tmp_path, clock):
    found = made(tmp_path)
    guessed = found.outlook.seconds(HEAD)
    found.begin(CHECK, (HEAD, TUNING))
    clock.now += 3 * found.outlook.guess(CHECK)
    found.end()
    assert found.outlook.seconds(HEAD) == pytest.approx(3 * guessed)
    assert Memory.read(found.memory.file).slowness[CHECK] == pytest.approx(3)


def test_the_time_to_the_end_falls_with_the_clock_and_grows_with_a_step_that_is_late(tmp_path, clock, shown):
    found = made(tmp_path)
    total = found.outlook.total((CHECK, HEAD, TUNING))
    found.begin(CHECK, (HEAD, TUNING))
    found.show()
    clock.now += 10
    found.show()
    check = found.outlook.seconds(CHECK)
    clock.now += 3 * check - 10
    found.show()
    after = 3 * found.outlook.total((HEAD, TUNING))
    assert [text.split(": ")[0] for text in shown] == ["checking the data"] * 3
    said = [text.split("about ")[1].removesuffix(" to the end") for text in shown]
    assert said[0] == f"{round(total / 60)} min"
    assert said[2] == f"{round((after + 0.05 * check) / 60)} min"


def test_fine_tuning_goes_on_if_it_will_end_in_time_and_is_stopped_while_there_is_time_to_export(tmp_path, clock):
    run = tmp_path / "run"
    for each, stops in ((10.0, False), (60.0, True)):
        write_epochs(run, 0)
        found = made(tmp_path, budget=300.0, head=1.0)
        found.begin_tuning(str(run), 6)
        stopped = None
        for second in range(400):
            clock.now += 1
            if second % each == each - 1 and second // each < 6:
                write_epochs(run, int(second // each) + 1)
            found.show()
            if found.must_stop_tuning():
                stopped = second
                break
            if epochs_done(str(run)) == 6 and second >= 6 * each + found.outlook.seconds(END):
                break
        assert (stopped is not None) == stops
        if stops:
            assert 300 - stopped >= found.outlook.seconds(STOPPED) - 1, "there is time for a model of it"
            assert 300 - stopped <= found.outlook.seconds(STOPPED) + 2, "and it is not stopped earlier than that"


def test_without_a_budget_nothing_is_ever_over(tmp_path, clock):
    found = made(tmp_path)
    found.begin_tuning(str(tmp_path), 6)
    clock.now += 1e6
    assert found.left is None
    assert not found.is_over()
    assert not found.must_stop_tuning()


def test_a_budget_is_over_when_it_is_spent_and_a_little_more(tmp_path, clock):
    found = made(tmp_path, budget=100.0)
    found.begin(CHECK, ())
    for second in range(100):
        assert not found.is_over(), second
        clock.now += 1
    clock.now += 6
    assert found.is_over()


def test_a_machine_that_becomes_busy_leaves_more_time_for_the_model_of_a_stopped_run(tmp_path, clock):
    found, run = made(tmp_path, budget=1000.0, head=1.0), tmp_path / "run"
    write_epochs(run, 0)
    found.begin_tuning(str(run), 6)
    quiet = found.outlook.seconds(STOPPED)
    clock.now += found.outlook.seconds(START)
    for count in (1, 2):
        clock.now += 5 * found.outlook.guess(EPOCH)
        write_epochs(run, count)
        found.show()
    assert found.outlook.seconds(STOPPED) == pytest.approx(5 * quiet)
    found.end_tuning(whole=False)
    assert found.memory.slowness == pytest.approx({"head": 1.0, EPOCH: 5.0})


def test_a_run_whose_epochs_are_done_is_let_end_until_the_budget_is_over(tmp_path, clock):
    found, run = made(tmp_path, budget=100.0, head=1.0), tmp_path / "run"
    write_epochs(run, 0)
    found.begin_tuning(str(run), 2)
    clock.now += 90
    write_epochs(run, 2)
    found.show()
    assert found.left < found.outlook.seconds(END)
    assert not found.must_stop_tuning(), "it makes its model itself"
    clock.now += 16
    assert found.must_stop_tuning()
    found.end_tuning(whole=True)
    assert found.memory.slowness[END] == pytest.approx(16 / found.outlook.guess(END))
