"""Tests pipeline.format.records against TensorFlow's own reader, writer and parser."""

import io
import subprocess
import sys

import pytest
import tensorflow as tf

from pipeline.format import records


def _record(**changes):
    values = {"image": b"\xff\xd8" + bytes(300), "label": 200, "id": "ab" * 32, "source": "file:///ä.jpg"}
    return records.Record(**{**values, "height": 17, "width": 70000, **changes})


def test_tensorflow_parses_what_we_encode():
    record = _record()
    example = tf.train.Example.FromString(records.encode_example(record)).features.feature
    assert example["image"].bytes_list.value[:] == [record.image]
    assert example["label"].int64_list.value[:] == [200]
    assert example["id"].bytes_list.value[:] == [record.id.encode()]
    assert example["source"].bytes_list.value[:] == ["file:///ä.jpg".encode()]
    assert (example["height"].int64_list.value[0], example["width"].int64_list.value[0]) == (17, 70000)


def test_we_parse_what_tensorflow_encodes():
    record = _record(label=0)
    again = tf.train.Example.FromString(records.encode_example(record)).SerializeToString()
    assert records.decode_example(again) == record
    assert records.decode_example(records.encode_example(record)) == record


def test_framing_is_tensorflows(tmp_path):
    payloads = [b"", b"x", bytes(range(256)) * 50]
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.write_bytes(b"".join(map(records.frame, payloads)))
    with tf.io.TFRecordWriter(str(theirs)) as writer:
        for payload in payloads:
            writer.write(payload)
    assert ours.read_bytes() == theirs.read_bytes()
    assert list(records.read_frames(io.BytesIO(theirs.read_bytes()))) == payloads


@pytest.mark.parametrize("at", range(0, 40))
def test_every_flipped_byte_is_noticed(at):
    data = bytearray(records.frame(b"0123456789") + records.frame(b"abc"))
    data[at] ^= 0x10
    with pytest.raises(records.RecordError, match="record [01]"):
        list(records.read_frames(io.BytesIO(bytes(data))))


def test_truncation_is_noticed():
    data = records.frame(b"0123456789")
    for length in range(1, len(data)):
        with pytest.raises(records.RecordError, match="record 0: truncated"):
            list(records.read_frames(io.BytesIO(data[:length])))


def test_a_missing_feature_is_named():
    example = tf.train.Example()
    example.features.feature["image"].bytes_list.value.append(b"x")
    with pytest.raises(records.RecordError, match='no feature "label" in the record .it has image'):
        records.decode_example(example.SerializeToString())


@pytest.mark.parametrize(
    ("change", "message"),
    [({"label": -1}, "label must be 0"), ({"id": "ab"}, "sha256"), ({"height": 0}, "height and width")],
)
def test_a_record_validates_itself(change, message):
    with pytest.raises(ValueError, match=message):
        _record(**change)


def test_what_beam_workers_import_is_free_of_tensorflow():
    code = (
        "import sys, pkgutil, importlib, beam_jobs, pipeline.format.records, pipeline.format.manifest\n"
        "for m in pkgutil.walk_packages(beam_jobs.__path__, 'beam_jobs.'): importlib.import_module(m.name)\n"
        "print([m for m in ('tensorflow', 'keras', 'jax') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
