"""Tests the order in which tasks start, without a network."""

import time

from beam_jobs.download.schedule import DEAD_HOST_FAILURES, Schedule


def urls(host, count):
    return [f"http://{host}.example/{number}" for number in range(count)]


def taken(schedule):
    tasks = []
    while task := schedule.take():
        tasks.append(task)
    return tasks


def test_hosts_take_turns_and_each_gets_its_share():
    schedule = Schedule([*urls("a", 5), *urls("b", 5), *urls("c", 1)], limit=lambda host: 2)
    tasks = taken(schedule)
    assert [task.host[0] for task in tasks] == ["a", "b", "c", "a", "b"]
    assert schedule.next_at() is None
    schedule.finish(tasks[0], host_is_out=False)
    assert [task.url for task in taken(schedule)] == ["http://a.example/2"]
    assert schedule.left == 10


def test_a_task_that_is_tried_again_goes_before_those_that_have_not_begun():
    schedule = Schedule(urls("a", 3), limit=lambda host: 1)
    first = schedule.take()
    schedule.again(first, wait=0.05)
    second = schedule.take()
    assert second.url.endswith("/1")
    time.sleep(0.06)
    assert schedule.take() is None
    schedule.finish(second, host_is_out=False)
    assert schedule.take() is first


def test_a_paused_host_rests_and_the_others_go_on():
    schedule = Schedule([*urls("a", 3), *urls("b", 3)], limit=lambda host: 1)
    a, b = taken(schedule)
    schedule.pause(a, seconds=0.1)
    schedule.finish(a, host_is_out=False)
    schedule.finish(b, host_is_out=False)
    assert [task.host[0] for task in taken(schedule)] == ["b"]
    assert 0.05 < schedule.next_at() - time.monotonic() <= 0.1
    time.sleep(0.11)
    assert [task.host[0] for task in taken(schedule)] == ["a"]


def test_a_dead_hosts_tasks_do_not_wait():
    schedule = Schedule(urls("a", 100), limit=lambda host: 1)
    for _ in range(DEAD_HOST_FAILURES):
        task = schedule.take()
        assert not schedule.host_is_dead(task)
        schedule.finish(task, host_is_out=True)
    schedule.pause(task, seconds=100)
    rest = taken(schedule)
    assert len(rest) == 100 - DEAD_HOST_FAILURES
    assert schedule.host_is_dead(rest[0])


def test_one_answer_makes_up_for_failures():
    schedule = Schedule(urls("a", 100), limit=lambda host: 1)
    for number in range(2 * DEAD_HOST_FAILURES):
        schedule.finish(schedule.take(), host_is_out=number != 3)
    assert schedule.host_is_dead(schedule.take())


def test_what_is_known_of_dead_hosts_goes_from_list_to_list():
    failures = {}
    for number in range(DEAD_HOST_FAILURES):
        schedule = Schedule([*urls("a", 2), *urls("b", 1)], limit=lambda host: 1, failures=failures)
        a, b = taken(schedule)
        assert not schedule.host_is_dead(a), number
        schedule.finish(a, host_is_out=True)
        schedule.finish(b, host_is_out=number != 2)  # which makes up for the two before
    schedule = Schedule([*urls("a", 1), *urls("b", 1)], limit=lambda host: 1, failures=failures)
    assert [schedule.host_is_dead(task) for task in taken(schedule)] == [True, False]
    assert failures == {"a.example": DEAD_HOST_FAILURES, "b.example": 2}


def test_the_memory_of_failures_is_bounded(monkeypatch):
    monkeypatch.setattr("beam_jobs.download.schedule._MAX_FAILING", 3)
    failures = {}
    schedule = Schedule([url for host in "abcde" for url in urls(host, 1)], limit=lambda host: 1, failures=failures)
    for task in taken(schedule):
        schedule.finish(task, host_is_out=True)
    assert sorted(failures) == ["c.example", "d.example", "e.example"]


def test_each_host_has_a_limit_of_its_own():
    schedule = Schedule([*urls("a", 5), *urls("b", 5)], limit=lambda host: 3 if host.startswith("a") else 1)
    assert sorted(task.host[0] for task in taken(schedule)) == ["a", "a", "a", "b"]
