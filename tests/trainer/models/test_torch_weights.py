"""Tests the reading of PyTorch's files, those that PyTorch 2.3.1 wrote, and those made to harm."""

import contextlib
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from pipeline.command import UsageError
from tests.trainer.models import pth
from trainer.models.torch_weights import read_state_dict

DATA = pathlib.Path(__file__).parent / "data"
LAYOUTS = ("zip", "legacy")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reads_what_pytorch_wrote(layout):
    """`torch.save`, with and without `_use_new_zipfile_serialization`, of the tensors below."""
    found = read_state_dict(DATA / f"torch-2.3.1-{layout}.pth")
    expected = {
        "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # a transposed view
        "a.bias": np.array([1.5, -2.0], np.float16),
        "n": np.array(7, np.int64),
        "p": np.ones(2, np.float64),  # a torch.nn.Parameter
    }
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)


def one_tensor(layout, *, offset=0, shape=(2, 3), strides=(3, 1), count=6, data=6, view=b"", **kind) -> bytes:
    """Makes a file with the float tensor `w` of values 0, 1, 2, …"""
    state = pth.state(
        {"w": pth.tensor("7", offset=offset, shape=shape, strides=strides, count=count, view=view, **kind)}
    )
    values = np.arange(data, dtype="<f4").tobytes()
    if layout == "zip":
        return pth.zipped({"data.pkl": state, "data/7": values})
    return pth.legacy_pth(state, pickle.dumps(["7"], 2), struct.pack("<q", count) + values)


def write(tmp_path, content: bytes) -> pathlib.Path:
    file = tmp_path / "weights.pth"
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reads_strided_tensors(tmp_path, layout):
    file = write(tmp_path, one_tensor(layout, offset=1, shape=(2, 2), strides=(1, 3)))
    np.testing.assert_array_equal(read_state_dict(file)["w"], [[1, 4], [2, 5]])


class _Call:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("part", ["magic", "state", "keys", "zip"])
def test_a_hostile_file_runs_nothing(tmp_path, part):
    trace = tmp_path / "was_run"
    bomb = pickle.dumps(_Call(os.mkdir, str(trace)), 2)
    pickle.loads(bomb)
    assert trace.exists()  # the bomb does go off in a plain unpickler
    trace.rmdir()
    content = {
        "magic": bomb,
        "state": pth.legacy_pth(bomb),
        "keys": pth.legacy_pth(pickle.dumps({}, 2), keys=bomb),
        "zip": pth.zipped({"data.pkl": bomb}),
    }
    with pytest.raises(UsageError, match=r"asks for (posix|nt)\.mkdir"):
        read_state_dict(write(tmp_path, content[part]))
    assert not trace.exists()


@pytest.mark.parametrize("function", [eval, getattr, print])
def test_builtins_are_refused_too(tmp_path, function):
    with pytest.raises(UsageError, match="asks for (__builtin__|builtins)"):
        read_state_dict(write(tmp_path, pth.legacy_pth(pickle.dumps(_Call(function, "1"), 2))))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offset": 1}, "beyond its storage"),
        ({"offset": -1}, "negative"),
        ({"strides": (-3, 1)}, "negative"),
        ({"strides": (3,)}, "of no shape"),
        ({"shape": (10**6, 10**6), "strides": (0, 0)}, "beyond its storage"),
        ({"view": b"(" + pth.text("7") + pth.ints([1, 2]) + b"t"}, "storage 7 is a part of another"),
        ({"kind": b"BFloat16Storage"}, "asks for torch.BFloat16Storage"),
    ],
)
def test_tensors_that_cannot_be(tmp_path, layout, changes, message):
    with pytest.raises(UsageError, match=f"not a PyTorch state dict: .*{message}"):
        read_state_dict(write(tmp_path, one_tensor(layout, **changes)))


def _with_size_of_the_first(content: bytes, size: int) -> bytes:
    """Says in a zip's directory that its last member is this large."""
    at = content.rindex(b"PK\x01\x02")
    return content[: at + 20] + struct.pack("<II", size, size) + content[at + 28 :]


STATE = pth.state({"w": pth.tensor("7", shape=(6,), strides=(1,), count=6)})
VALUES = np.arange(6, dtype="<f4").tobytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (one_tensor("legacy", data=5), "truncated"),
        (one_tensor("legacy", count=-1), "truncated"),
        (one_tensor("legacy")[:200], "truncated|nothing is left|damaged"),
        (pth.legacy_pth(STATE), "truncated: no storage 7"),
        (pth.legacy_pth(pickle.dumps([1], 2)), "no dictionary"),
        (pth.legacy_pth(STATE, pickle.dumps(["8"], 2)), "a storage that nothing refers to"),
        (pth.HEADER.replace(b"\x88", b"\x89") + STATE + pickle.dumps([], 2), "big-endian"),
        (one_tensor("zip", data=5), "beyond its storage"),
        (one_tensor("zip")[:-40], "not a zip file"),
        (one_tensor("zip").replace(VALUES, bytes(24)), "Bad CRC-32"),
        (pth.zipped({"data.pkl": STATE}), "truncated: no storage 7"),
        (pth.zipped({"data.pkl": STATE, "data/7": VALUES, "byteorder": b"big"}), "big-endian"),
        (pth.zipped({"model/data.pkl": STATE, "data.pkl": STATE}), "no data.pkl in it, or several"),
        (pth.zipped({"version": b"3"}), "no data.pkl in it, or several"),
        (pth.zipped({"data.pkl": STATE, "data/7": bytes(9)}, compression=zipfile.ZIP_DEFLATED), "compressed"),
        (_with_size_of_the_first(one_tensor("zip"), 1 << 31), "on top of each other"),
        (b"PK\x03\x04", "not a zip file"),
        (b"", "truncated"),
    ],
)
def test_damaged_files_are_user_mistakes(tmp_path, content, message):
    with pytest.raises(UsageError, match=f"weights.pth: not a PyTorch state dict: .*({message})"):
        read_state_dict(write(tmp_path, content))


def test_an_absent_file_is_a_user_mistake(tmp_path):
    with pytest.raises(UsageError, match="cannot read the weights: No such file"):
        read_state_dict(tmp_path / "weights.pth")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_change_of_a_byte_ends_in_another_error(tmp_path, layout):
    whole = (DATA / f"torch-2.3.1-{layout}.pth").read_bytes()
    chance = np.random.default_rng(0)
    for _ in range(400):
        raw = bytearray(whole)
        for at in chance.integers(0, len(raw), 3):
            raw[int(at)] = int(chance.integers(0, 256))
        with contextlib.suppress(UsageError):
            read_state_dict(write(tmp_path, bytes(raw)))


BOMBS = {
    "a memo of gigabytes": b"\x80\x02}r\xf0\xff\xff\xff.",
    "text of a terabyte": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"x.",
    "dictionaries in dictionaries": b"\x80\x02" + (b"}" + pth.text("x")) * 50_000 + b"N" + b"s" * 50_000 + b".",
    "dictionaries that double": b"\x80\x02}q\x00" + (b"}" + (pth.text("x") + b"h\x00s") * 2 + b"q\x00") * 20_000 + b".",
    "the same storage for many": pth.state(
        {str(n): pth.tensor("7", shape=(4 << 20,), strides=(1,), count=4 << 20) for n in range(1_000)}
    ),
}
_CHILD = """
import resource, sys, types
package = sys.modules["trainer.models"] = types.ModuleType("trainer.models")  # spares the import of TensorFlow
package.__path__ = ["trainer/models"]
from pipeline.command import UsageError
from trainer.models.torch_weights import read_state_dict
_, before = resource.getrlimit(resource.RLIMIT_AS)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (768 << 20), before))
for path in sys.argv[1:]:
    try:
        print(len(read_state_dict(path)))
    except UsageError as error:
        assert str(error).startswith(path + ": not a PyTorch state dict: "), error
        assert len(str(error)) < 1000 and "\\n" not in str(error), error
        print("refused")
"""


def test_files_made_to_harm_take_no_memory(tmp_path):
    """The last holds a thousand tensors, each all of a storage of 16 MiB, which take no more than it does."""
    paths = []
    for number, bomb in enumerate(BOMBS.values()):
        file = tmp_path / f"{number}.pth"
        file.write_bytes(pth.zipped({"data.pkl": bomb, "data/7": bytes(16 << 20)}))
        paths.append(str(file))
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _CHILD, *paths]
    root = pathlib.Path(__file__).resolve().parents[3]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["0", "refused", "0", "0", "1000"]
