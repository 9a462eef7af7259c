"""Tests decoding in a child process: the answers are the same, and no image exceeds its budget or stops others."""

import concurrent.futures
import contextlib
import functools
import io
import os
import pathlib
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image, features

from pipeline.images.encode import render
from pipeline.images.guarded import Decoder, DecoderPool, Decoders, ImageBudget
from pipeline.images.look import inspect
from pipeline.images.policy import PixelPolicy, Reject, RejectCode

POLICY = PixelPolicy(min_side=1)
SOUND = 8  # images in `photos`


def save(image, form="JPEG", **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def photos(count=SOUND):
    random = np.random.default_rng(0)
    pixels = random.integers(0, 255, (count, 60, 80, 3), np.uint8)
    return [save(Image.fromarray(one), "PNG" if number % 2 else "JPEG") for number, one in enumerate(pixels)]


@functools.cache
def endless():
    """Makes a compressed BMP of 64x64 pixels with millions of codes that go nowhere: Pillow takes half a minute."""
    coded = b"\0\2\0\0" * 15_000_000 + b"\0\1"
    start = 14 + 40 + 1024
    header = b"BM" + struct.pack("<IHHI", start + len(coded), 0, 0, start)
    header += struct.pack("<IiiHHIIiiII", 40, 64, 64, 1, 8, 1, len(coded), 2835, 2835, 256, 256)
    return header + bytes(1024) + coded


@contextlib.contextmanager
def decoder(**budget):
    with contextlib.closing(Decoder(POLICY, ImageBudget(**budget))) as opened:
        yield opened


@contextlib.contextmanager
def threads(count):
    pool = DecoderPool(POLICY, ImageBudget())
    with contextlib.closing(pool), contextlib.closing(Decoders(count, pool)) as opened:
        yield opened


def children(ancestor=None):
    """Lists the ids of the processes that decode for this (or another) process, those that fork them among them."""
    parents = {}
    for status in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            pid, rest = status.read_text().split(" ", 1)
            state, ppid = rest.rpartition(")")[2].split()[:2]
            if b"decoder_child" in status.with_name("cmdline").read_bytes() and state != "Z":
                parents[int(pid)] = int(ppid)
    return [pid for pid, ppid in parents.items() if ancestor is None or ancestor in (ppid, parents.get(ppid))]


def test_it_answers_as_this_process_would():
    images = [*photos(), b"", b"no image", save(Image.new("L", (30, 40)), "GIF"), photos()[0][:-200]]
    with decoder() as opened:
        assert opened.inspect(images) == [inspect(data, POLICY) for data in images]
        kept = [
            data for data, found in zip(images, opened.inspect(images), strict=True) if not isinstance(found, Reject)
        ]
        assert opened.render(kept) == [render(data, POLICY) for data in kept]
        assert opened.inspect([]) == []


def test_an_image_over_its_time_is_refused_and_the_others_are_not():
    before, after = photos()[:4], photos()[4:]
    with decoder(seconds=0.5) as opened:
        results = opened.inspect([*before, endless(), *after, endless()])
    detail = "decoding takes more than 0.5 s"
    assert results[4] == results[-1] == Reject(code=RejectCode.TOO_SLOW, detail=detail)
    assert results[:4] + results[5:-1] == [inspect(data, POLICY) for data in photos()]


def large(form, side=2600, **options):
    return save(Image.new("RGB", (side, side), "red"), form, **options)


FORMATS = {
    "JPEG": {},
    "progressive": {"progressive": True},
    "PNG": {},
    "WEBP": {},
    "TIFF": {"compression": "tiff_lzw"},
    "BMP": {},
    "GIF": {},
    "PPM": {},
    "JPEG2000": {},
    "AVIF": {"speed": 10},
}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces a limit on address space")
@pytest.mark.parametrize(
    "form",
    [
        form if form in ("JPEG", "JPEG2000") else pytest.param(form, marks=pytest.mark.slow)
        for form in FORMATS
        if form != "AVIF" or features.check("avif")
    ],
)
def test_an_image_over_its_memory_is_refused_for_that_reason_in_every_format(form):
    """Decoders in C say of a failed allocation that the file is broken, or nothing."""
    big = large("JPEG" if form == "progressive" else form, **FORMATS[form])
    small = large("JPEG" if form == "progressive" else form, side=100, **FORMATS[form])
    with decoder(memory=16 << 20) as opened:
        first, second, third = opened.inspect([small, big, small])
    assert second == Reject(code=RejectCode.TOO_MUCH_MEMORY, detail="decoding takes more than 16 MiB of memory")
    assert first == third == inspect(small, POLICY)
    with decoder() as opened:
        assert opened.inspect([big]) == [inspect(big, POLICY)]


def kill_while_it_decodes(opened, number, times):
    killed = set()
    while len(killed) < times:
        time.sleep(0.05)
        child = opened._child
        if child is not None and child.pid not in killed and opened._area.place == 1:
            killed.add(child.pid)
            os.kill(child.pid, number)


@pytest.mark.parametrize(
    ("number", "times", "outcome"),
    [
        (signal.SIGSEGV, 1, (RejectCode.CORRUPT, "the decoder crashed (SIGSEGV)")),
        pytest.param(signal.SIGABRT, 1, (RejectCode.CORRUPT, "the decoder crashed (SIGABRT)"), marks=pytest.mark.slow),
        pytest.param(
            signal.SIGKILL,
            2,
            (RejectCode.TOO_MUCH_MEMORY, "decoding takes more than 1024 MiB of memory"),
            marks=pytest.mark.slow,
        ),
        # Once may be somebody else's doing: the image gets a second chance, and exceeds its time. SIGTERM reaches the
        # whole group of processes, and is not heeded.
        pytest.param(signal.SIGKILL, 1, (RejectCode.TOO_SLOW, "decoding takes more than 3 s"), marks=pytest.mark.slow),
        (
            signal.SIGTERM,
            1,
            (RejectCode.TOO_SLOW, "decoding takes more than 3 s"),
        ),
    ],
)
def test_an_image_that_ends_the_decoder_is_named(number, times, outcome):
    seconds = 3 if outcome[0] is RejectCode.TOO_SLOW else 60
    with decoder(seconds=seconds) as opened, concurrent.futures.ThreadPoolExecutor(1) as pool:
        opened.inspect(photos())
        killer = pool.submit(kill_while_it_decodes, opened, number, times)
        results = opened.inspect([photos()[0], endless(), photos()[1]])
        killer.result()
    assert (results[1].code, results[1].detail) == outcome
    assert [results[0], results[2]] == [inspect(data, POLICY) for data in photos()[:2]]


def test_a_decoder_killed_between_images_is_replaced():
    with decoder() as opened:
        for _ in range(2):
            opened.inspect(photos())
            os.kill(opened._child.pid, signal.SIGKILL)
            assert opened._child.wait() == -signal.SIGKILL
        assert opened.inspect(photos()) == [inspect(data, POLICY) for data in photos()]


def test_no_child_outlives_its_parent(tmp_path):
    """The parent is killed while the child decodes what would take it an hour."""
    image = tmp_path / "endless.bmp"
    image.write_bytes(endless())
    script = f"""
from pipeline.images.guarded import *
opened = Decoder(PixelPolicy(), ImageBudget(seconds=3600))
opened.start()
print("started", flush=True)
opened.inspect([open({str(image)!r}, "rb").read()])
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        parent.stdout.readline()
        deadline = time.monotonic() + 60
        while len(started := set(children(parent.pid))) < 2:  # what forks, and what decodes
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.5)  # until it decodes
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 10
        while started & set(children()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not started & set(children())


def test_closing_ends_the_children():
    others = set(children(os.getpid()))  # of other tests in this process
    pool = DecoderPool(POLICY, ImageBudget())
    pool.start(2)
    with contextlib.closing(Decoders(2, pool)) as opened:
        list(opened.map(lambda decoder, data: decoder.inspect([data]), photos()))
    started = set(children(os.getpid())) - others
    assert len(started) == 3  # what forks, and two that it has forked
    pool.close()
    assert not started & set(children(os.getpid()))


def test_results_come_in_order_and_tasks_are_taken_as_they_go():
    taken = []

    def tasks():
        for number in range(100):
            taken.append(number)
            yield number

    with threads(2) as opened:
        results = opened.map(lambda _, number: number, tasks())
        assert next(results) == 0
        assert len(taken) == opened.ahead + 1
        assert [0, *results] == list(range(100))


def test_an_error_of_a_task_reaches_who_asks():
    with threads(1) as opened, pytest.raises(ZeroDivisionError):
        list(opened.map(lambda _, number: 1 / number, [1, 0]))


@pytest.mark.parametrize("budget", [{"seconds": 0}, {"seconds": 1e9}, {"memory": 1 << 20}])
def test_a_senseless_budget_is_refused(budget):
    (value,) = budget.values()
    with pytest.raises(ValueError, match=str(value)):
        ImageBudget(**budget)


def test_a_thumbnail_is_small_whatever_comes():
    noise = save(Image.effect_noise((3000, 2000), 80).convert("RGB"))
    with decoder() as opened:
        made = opened.thumbnail(noise)
        assert len(made) < 15_000
        assert Image.open(io.BytesIO(made)).size == (112, 75)
        assert isinstance(opened.thumbnail(b"nothing"), Reject)
