"""Tests CIFAR archives against NumPy's and pickle's own reading of them, and against archives made to harm."""

import hashlib
import io
import json
import os
import pickle
import struct
import tarfile

import numpy as np
import pytest
from PIL import Image

from beam_jobs.sources import open_source
from beam_jobs.sources.cifar_batches import BatchError, read_binary, read_pickled_meta, read_python
from pipeline.command import DataError, UsageError

NAMES = [f"class{i}" for i in range(10)]
CHANCE = np.random.default_rng(0)


def planes(count):
    return CHANCE.integers(0, 256, (count, 3072), np.uint8)


def upright(planes):
    return planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def python2_pickle(data, labels):
    """Pickles a batch as Python 2 and its NumPy did, byte strings everywhere: what the official archive holds."""

    def text(value):
        return b"T" + struct.pack("<i", len(value)) + value

    def number(value):
        return b"J" + struct.pack("<i", value)

    dtype = (
        b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|") + b"NNN" + number(-1) * 2 + b"K\x00tb"
    )
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    array += (
        b"(K\x01"
        + number(data.shape[0])
        + number(data.shape[1])
        + b"\x86"
        + dtype
        + b"\x89"
        + text(data.tobytes())
        + b"tb"
    )
    numbers = b"](" + b"".join(number(label) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + numbers + text(b"batch_label") + text(b"x") + b"u."


def write_tar(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return str(path)


def python_files(protocol=2, per_batch=(3, 5)):
    """Makes the files of a small archive and its (split → planes, labels)."""
    train = [planes(count) for count in per_batch]
    labels = [[int(label) for label in CHANCE.integers(0, 10, count)] for count in per_batch]
    test, test_labels = planes(2), [9, 0]

    def dump(data, numbers):
        return pickle.dumps({b"data": data, b"labels": numbers, b"filenames": [b"x"]}, protocol)

    files = {"cifar-10-batches-py/batches.meta": pickle.dumps({"label_names": NAMES}, protocol)}
    # The real archive is not in order either.
    files["cifar-10-batches-py/test_batch"] = dump(test, test_labels)
    for number in reversed(range(len(train))):
        files[f"cifar-10-batches-py/data_batch_{number + 1}"] = dump(train[number], labels[number])
    return files, {
        "train": (np.concatenate(train), [label for batch in labels for label in batch]),
        "test": (test, test_labels),
    }


def open_cifar(path, tmp_path, name="cifar10"):
    return open_source(name, input_path=str(path), options={"work_dir": str(tmp_path / "work")})


def check(source, expected, names=NAMES):
    items = list(source.items())
    assert source.labels() == names
    assert len({item.uri for item in items}) == len(items)
    for split, (data, labels) in expected.items():
        part = [item for item in items if item.split == split]
        assert [item.label for item in part] == [names[label] for label in labels]
        assert [item.uri for item in part] == [f"{source.name}://{split}/{i}" for i in range(len(labels))]
        for item, pixels in zip(part, upright(data), strict=True):
            raw = source.read(item)
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(raw))), pixels)
            assert item.raw_id == item.content_id(raw) == hashlib.sha256(pixels.tobytes()).digest()
    assert len(items) == sum(len(labels) for _, labels in expected.values())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_python_archive(tmp_path, protocol):
    files, expected = python_files(protocol)
    source = open_cifar(write_tar(tmp_path / "cifar.tar.gz", files), tmp_path)
    check(source, expected)
    check(pickle.loads(pickle.dumps(source)), expected)


@pytest.mark.parametrize("inner", ["", "cifar-10-batches-py"])
def test_unpacked_folder(tmp_path, inner):
    files, expected = python_files()
    for name, data in files.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    check(open_cifar(tmp_path / "in" / inner, tmp_path), expected)


def test_binary_archive(tmp_path):
    _, expected = python_files()
    (data, labels), (test, test_labels) = expected["train"], expected["test"]

    def rows(images, numbers):
        return np.concatenate([np.array(numbers, np.uint8)[:, None], images], axis=1).tobytes()

    files = {
        "cifar-10-batches-bin/data_batch_2.bin": rows(data[3:], labels[3:]),
        "cifar-10-batches-bin/data_batch_1.bin": rows(data[:3], labels[:3]),
        "cifar-10-batches-bin/batches.meta.txt": ("\n".join(NAMES) + "\n\n").encode(),
        "cifar-10-batches-bin/test_batch.bin": rows(test, test_labels),
    }
    check(open_cifar(write_tar(tmp_path / "cifar.tar.gz", files), tmp_path), expected)


@pytest.mark.parametrize("kind", ["python", "binary"])
def test_cifar100_has_fine_labels(tmp_path, kind):
    names = [f"fine{i}" for i in range(100)]
    expected = {"train": (planes(4), [99, 0, 50, 7]), "test": (planes(2), [1, 98])}
    files = {}
    for split, (data, labels) in expected.items():
        if kind == "python":
            batch = {"data": data, "fine_labels": labels, "coarse_labels": [5] * len(labels)}
            files[f"cifar-100-python/{split}"] = pickle.dumps(batch, 2)
        else:
            numbers = np.array([[5, label] for label in labels], np.uint8)
            files[f"cifar-100-binary/{split}.bin"] = np.concatenate([numbers, data], axis=1).tobytes()
    if kind == "python":
        meta = {"fine_label_names": names, "coarse_label_names": ["coarse"] * 20}
        files["cifar-100-python/meta"] = pickle.dumps(meta, 2)
    else:
        files["cifar-100-binary/fine_label_names.txt"] = "\n".join(names).encode()
        files["cifar-100-binary/coarse_label_names.txt"] = b"coarse\n" * 20
    check(open_cifar(write_tar(tmp_path / "c.tar.gz", files), tmp_path, name="cifar100"), expected, names)


def test_pickles_of_python_2():
    data, labels = planes(3), [4, 0, 9]
    raw = python2_pickle(data, labels)
    assert np.array_equal(pickle.loads(raw, encoding="bytes")[b"data"], data)  # NumPy agrees that this is one
    batch = read_python(raw, key="labels")
    assert np.array_equal(batch.planes, data)
    assert batch.labels.tolist() == labels


def test_shared_archive_equals_plain_unpickling(shared_data, tmp_path):
    archive = shared_data / "cifar-10-python.tar.gz"
    source = open_cifar(archive, tmp_path)
    items = list(source.items())
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    assert source.labels() == names
    assert [sum(item.split == split for item in items) for split in ("train", "test")] == [10_000, 2_000]
    with tarfile.open(archive) as tar:
        for number in (1, 5):
            batch = pickle.load(tar.extractfile(f"cifar-10-batches-py/data_batch_{number}"), encoding="bytes")
            batch = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
            part = items[(number - 1) * 2000 : number * 2000]
            assert [names.index(item.label) for item in part] == list(batch["labels"])
            pixels = [np.asarray(Image.open(io.BytesIO(source.read(item)))) for item in part]
            assert np.array_equal(pixels, upright(np.asarray(batch["data"])))


def test_an_archive_is_unpacked_once(tmp_path):
    files, expected = python_files()
    path = write_tar(tmp_path / "cifar.tar.gz", files)
    list(open_cifar(path, tmp_path).items())
    (unpacked,) = (tmp_path / "work").iterdir()
    before = unpacked.stat().st_mtime_ns
    check(open_cifar(path, tmp_path), expected)
    assert [entry.stat().st_mtime_ns for entry in (tmp_path / "work").iterdir()] == [before]
    files, expected = python_files()
    check(open_cifar(write_tar(path, files), tmp_path), expected)  # another archive in its place


class Harm:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("where", ["data_batch_1", "test_batch", "batches.meta"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_malicious_pickle_runs_nothing(tmp_path, where, protocol):
    files, _ = python_files()
    files[f"cifar-10-batches-py/{where}"] = pickle.dumps(Harm(os.system, f"touch {tmp_path}/harmed"), protocol)
    path = write_tar(tmp_path / "cifar.tar.gz", files)
    with pytest.raises(DataError, match=rf"{where}.*system"):
        list(open_cifar(path, tmp_path).items())
    assert not (tmp_path / "harmed").exists()
    assert not list((tmp_path / "work").glob("*")) if (tmp_path / "work").exists() else True
    pickle.loads(files[f"cifar-10-batches-py/{where}"])  # the plain reader does run it: the test can fail
    assert (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    "harm",
    [
        Harm(eval, "1+1"),
        Harm(np.load, "/etc/hostname"),
        Harm(getattr, np, "load"),
        Harm(bytearray, 1 << 40),
        Harm(pickle.loads, b"N."),
        Harm(np.ndarray, (1 << 40,)),
    ],
    ids=["eval", "np.load", "getattr", "bytearray", "pickle.loads", "ndarray"],
)
def test_no_other_callable_is_reached(harm):
    function, arguments = harm.call
    if function is getattr:
        arguments = ("numpy", "load")
    raw = pickle.dumps({"data": Harm(function, *arguments), "labels": [1]}, 2)
    with pytest.raises(BatchError):
        read_python(raw, key="labels")


def test_stand_ins_cannot_be_spoilt_for_the_next_pickle():
    data = planes(1)
    # BUILD on the class itself with a slot state: setattr(stand-in, "__setstate__", …)
    spoiler = b"\x80\x02cnumpy\nndarray\nN}U\x0c__setstate__cnumpy\ndtype\ns\x86b."
    with pytest.raises(BatchError):
        read_python(spoiler, key="labels")
    assert np.array_equal(read_python(python2_pickle(data, [1]), key="labels").planes, data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": np.zeros((2, 3071), np.uint8)}, "3072"),
        ({"data": np.zeros((2, 3072), np.float64)}, "type"),
        ({"data": np.zeros((3, 3072), np.uint8)}, "3 images"),
        ({"data": [1, 2]}, "expected an array"),
        ({"labels": [1, -1]}, "labels"),
        ({"labels": [1, "2"]}, "labels"),
        ({"labels": None}, "expected an array"),
        ({"labels": np.array([1, -2])}, "negative"),
    ],
)
def test_damaged_batches_are_described(change, message):
    batch = {"data": np.zeros((2, 3072), np.uint8), "labels": [1, 2]} | change
    with pytest.raises(BatchError, match=message):
        read_python(pickle.dumps(batch), key="labels")


def test_other_damage():
    whole = pickle.dumps({"data": planes(2), "labels": [1, 2]})
    for cut in range(0, len(whole), 97):
        with pytest.raises(BatchError):
            read_python(whole[:cut], key="labels")
    with pytest.raises(BatchError, match='no "fine_labels"'):
        read_python(whole, key="fine_labels")
    with pytest.raises(BatchError, match="no list of names"):
        read_pickled_meta(whole, key="label_names")
    with pytest.raises(BatchError, match="multiple of 3073"):
        read_binary(bytes(3072), label_bytes=1)
    as_labels = read_python(pickle.dumps({"data": planes(2), "labels": np.array([7, 8])}), key="labels").labels
    assert as_labels.tolist() == [7, 8]


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "cifar-10-batches-py/../../data_batch_1"])
def test_paths_that_lead_out_are_refused(tmp_path, name):
    files, _ = python_files()
    path = write_tar(tmp_path / "cifar.tar.gz", {**files, name: b"x"})
    with pytest.raises(DataError, match="leads out"):
        list(open_cifar(path, tmp_path).items())


def test_links_are_not_followed(tmp_path):
    files, _ = python_files()
    secret = tmp_path / "secret"
    secret.write_bytes(files.pop("cifar-10-batches-py/test_batch"))
    path = write_tar(tmp_path / "cifar.tar", files)
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("cifar-10-batches-py/test_batch")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        archive.addfile(link)
    with pytest.raises(UsageError, match="test_batch"):
        list(open_cifar(path, tmp_path).items())


def test_wrong_inputs_are_named(tmp_path):
    files, _ = python_files()
    path = tmp_path / "cifar.tar.gz"
    with pytest.raises(UsageError, match="no such file"):
        list(open_cifar(path, tmp_path).items())
    write_tar(path, {"readme": b"hello"})
    with pytest.raises(UsageError, match="not an official CIFAR-10 archive"):
        list(open_cifar(path, tmp_path).items())
    write_tar(path, files)
    with pytest.raises(UsageError, match="not an official CIFAR-100 archive"):
        list(open_cifar(path, tmp_path, name="cifar100").items())
    whole = path.read_bytes()
    for part in (whole[: len(whole) // 2], whole[:40] + b"\0" * 40 + whole[80:], b"PK not a tar"):
        path.write_bytes(part)
        with pytest.raises(DataError, match="damaged"):
            list(open_cifar(path, tmp_path).items())
    files["cifar-10-batches-py/batches.meta"] = pickle.dumps({"label_names": NAMES[:9]})
    with pytest.raises(DataError, match="9 label names"):
        list(open_cifar(write_tar(path, files), tmp_path).items())
    assert json.dumps(sorted(os.listdir(tmp_path))) == '["cifar.tar.gz"]' or not list((tmp_path / "work").iterdir())
