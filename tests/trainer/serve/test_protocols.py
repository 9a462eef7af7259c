"""Reads bodies that are damaged in thousands of ways: each is understood, or refused with a reason."""

import json
import random

import numpy as np
import pytest

from pipeline.command import FormatError
from tests.fuzz.mutation import mutate
from tests.fuzz.shapes import TEXT
from trainer.serve.protocols.bodies import Answer, decode_image, write_json
from trainer.serve.protocols.open_inference import infer_response, read_infer
from trainer.serve.protocols.tf_serving import read_predict

TENSOR = {"name": "image_bytes", "datatype": "BYTES", "shape": [1], "data": ["/9j/4AA="]}
BINARY = json.dumps({"inputs": [{**TENSOR, "data": None, "parameters": {"binary_data_size": 6}}]}).encode()
SOUND = [
    b'{"instances": [{"image_bytes": {"b64": "/9j/4AA="}}, {"b64": "AAAA"}], "signature_name": "serving_default"}',
    b'{"inputs": {"image_bytes": [{"b64": "/9j/4AA="}]}}',
    json.dumps({"inputs": [TENSOR], "id": "a", "outputs": [{"name": "label"}]}).encode(),
    json.dumps({"inputs": [TENSOR], "parameters": {"binary_data_output": True}}).encode(),
    BINARY + b"\2\0\0\0ab",
]


def test_damaged_bodies_are_understood_or_refused():
    rng = random.Random(3)
    understood = 0
    for number in range(6_000):
        body = SOUND[number % len(SOUND)]
        length = str(len(BINARY)) if body.startswith(BINARY) else None
        body = mutate(body, rng, TEXT, SOUND, max_bytes=1 << 16)
        for read in (read_predict, lambda data, of=length: read_infer(data, of)):
            told = ""
            try:
                images = read(body).images
            except FormatError as error:
                told = str(error)
                write_json({"error": told})
            assert 0 < len(told) < 500 or all(isinstance(image, bytes) for image in images)
            understood += not told
    assert understood > 100


@pytest.mark.parametrize("text", ["aGFsbG8=", "aGFsbG8", "aGFs\nbG8=\n", " aGFsbG8= "])
def test_base64_as_it_comes(text):
    assert decode_image(text, "here") == b"hallo"


@pytest.mark.parametrize("text", ["aGFsbG8*", "a", "ä", None, 7, ["aGFs"]])
def test_what_is_no_base64_is_named(text):
    with pytest.raises(FormatError, match="^here (is not base64|must be the base64)"):
        decode_image(text, "here")


def test_half_a_character_in_an_id_comes_back_as_it_came():
    request = read_infer(json.dumps({"inputs": [TENSOR], "id": "\ud800"}).encode(), None)
    answer = Answer(label="Käfer", class_index=0, probabilities=np.array([1.0], np.float32))
    body, _ = infer_response(request, [answer], name="m", version="1")
    assert json.loads(body)["id"] == "\ud800"
    assert "Käfer" in body.decode()
