"""Reads the log of a server's answers, and takes the disk away from it."""

import contextlib
import time

import numpy as np
import pytest

from pipeline.format.answer_log import read_answers, served_name
from pipeline.images.facts import comparable_of
from pipeline.images.guarded import Decoder, ImageBudget
from pipeline.images.policy import PixelPolicy
from tests.trainer.serve.conftest import LABELS
from tests.trainer.serve.servers import serving


def test_answers_are_logged_with_features_and_facts(exports, photos, tmp_path):
    with serving(f"--model={exports / 'one'}", f"--log={tmp_path / 'log'}", "--log_share=1") as server:
        answers = [server.photo(photo)[1] for photo in photos]
        server.photo(b"no image")
        assert server.end() == 0
    logged = read_answers(tmp_path / "log")
    assert logged.model == served_name(exports / "one")
    assert logged.labels == tuple(LABELS)
    assert logged.probabilities.max(axis=1) == pytest.approx([answer["probability"] for answer in answers])
    assert logged.features is not None
    assert len(logged.features) == len(photos)
    assert np.isfinite(logged.features).all()
    with contextlib.closing(Decoder(PixelPolicy(), ImageBudget())) as decoder:
        facts = [comparable_of(found, photo) for found, photo in zip(decoder.inspect(photos), photos, strict=True)]
    assert "brightness" in logged.facts
    assert {name: values.tolist() for name, values in logged.facts.items()} == {
        name: pytest.approx([one[name] for one in facts]) for name in facts[0]
    }
    assert abs(logged.seconds - time.time()).max() < 600


@pytest.mark.slow
def test_a_share_is_logged(exports, photos, tmp_path):
    with serving(f"--model={exports / 'one'}", f"--log={tmp_path / 'log'}", "--log_share=0.2") as server:
        for _ in range(100):
            server.photo(photos[0])
        assert server.end() == 0
    assert 3 <= len(read_answers(tmp_path / "log").seconds) <= 50


def test_a_log_that_cannot_be_written_costs_no_answer(exports, photos, tmp_path):
    log = tmp_path / "log"
    with serving(f"--model={exports / 'one'}", f"--log={log}", "--log_share=1") as server:
        log.rmdir()
        log.write_text("in its place")
        assert [server.photo(photos[0])[0] for _ in range(20)] == [200] * 20
        assert server.end() == 0
    assert "Traceback" not in "".join(server.errors)
