"""Reads the log of a server's answers, and takes the disk away from it."""

import time

import numpy as np
import pytest

from pipeline.format.answer_log import read_answers, served_name
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
    assert logged.facts["bytes"].tolist() == pytest.approx([len(photo) for photo in photos])
    assert set(logged.facts) >= {"brightness", "sharpness", "height", "width"}
    assert abs(logged.seconds - time.time()).max() < 600


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
