"""Tests that storage keeps its contract on disks, in memory and on servers that answer as gs:// and s3:// do."""

import contextlib
import functools
import os
import subprocess
import sys
import textwrap
import threading
import uuid

import pytest

from pipeline.command import UsageError
from pipeline.format import storage
from pipeline.format.storage import whole_file, write_atomically
from tests import clouds

ODD_NAMES = ("a[1].jpg", "a1.jpg", "a*", "b#?.jpg", "ü %41.jpg", "a b+c&d=e")


@pytest.fixture(params=["local", "memory", "gs", "s3"])
def root(request, tmp_path) -> str:
    """Names an empty folder of each kind of store."""
    if request.param == "local":
        return str(tmp_path)
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}"
    return storage.join(request.getfixturevalue({"gs": "gcs", "s3": "s3"}[request.param]), uuid.uuid4().hex)


@pytest.fixture
def in_store(root) -> str:
    if not storage.is_remote(root):
        pytest.skip("a disk has none of this")
    return root


def put(root: str, *names: str, content: bytes = b"content") -> None:
    for name in names:
        path = storage.join(root, name)
        storage.make_folder(os.path.dirname(path))
        write_atomically(path, content)


def names(path: str) -> list[str]:
    return [entry.name for entry in storage.list_folder(path)]


def run(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a program in an interpreter of its own: stores read their environment once."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        capture_output=True, text=True, check=True, env=os.environ | environment,
    )  # fmt: skip


def test_reads_what_was_written(root):
    file = storage.join(root, "file")
    for content, expected in (("ä\n", "ä\n".encode()), (b"\x00new", b"\x00new"), (b"", b"")):
        write_atomically(file, content)
        assert storage.read(file) == expected
        assert storage.open_file(file).read() == expected
        assert names(root) == ["file"]
    write_atomically(file, "ä")
    assert storage.read_text(file) == "ä"


def test_an_open_file_is_sought_in(root):
    file = storage.join(root, "file")
    content = os.urandom(9 << 20)  # of several blocks
    write_atomically(file, content)
    with storage.open_file(file) as first, storage.open_file(file) as second:
        assert first.read(3) == content[:3]
        assert second.read(5) == content[:5]  # each has a place of its own
        assert first.tell() == 3
        assert first.seek(-7, os.SEEK_END) == len(content) - 7
        assert first.read(100) == content[-7:]
        assert first.read(1) == b""
        assert first.seek(5 << 20) == 5 << 20
        assert first.read(2 << 20) == content[5 << 20 : 7 << 20]
        assert second.read() == content[5:]


def test_exists_says_whether_something_is_there(root):
    put(root, "folder/file")
    assert storage.exists(storage.join(root, "folder/file"))
    assert storage.exists(storage.join(root, "folder"))
    assert not storage.exists(storage.join(root, "folder/other"))
    assert not storage.exists(storage.join(root, "fold"))


def test_a_stamp_changes_with_the_content(root):
    file = storage.join(root, "file")
    seen = set()
    for content in ("one", "two", "three"):
        write_atomically(file, content)
        size, stamp = storage.stamp(file)
        assert size == len(content)
        assert stamp == storage.stamp(file)[1]
        assert [(entry.size, entry.stamp) for entry in storage.list_folder(root)] == [(size, stamp)]
        seen.add(stamp)
    assert len(seen) == 3


def test_lists_what_lies_directly_in_a_folder(root):
    put(root, "b", "a/deep/er", "c/x", "c/y")
    listed = storage.list_folder(root)
    assert [(entry.name, entry.is_folder, entry.size) for entry in listed] == [
        ("a", True, 0),
        ("b", False, 7),
        ("c", True, 0),
    ]
    assert storage.list_folder(root + "/") == listed
    assert names(storage.join(root, "a")) == ["deep"]


def test_lists_all_pages(root):
    if root.startswith("gs://"):
        folder = f"gs://{clouds.BUCKET}/many"
    elif root.startswith("s3://"):
        pytest.skip("takes moto a minute; in a slow test")
    else:
        folder = root
        put(root, *map("{:04}".format, range(clouds.MANY)))
    assert names(folder) == [f"{number:04}" for number in range(clouds.MANY)]


@pytest.mark.slow
def test_lists_and_deletes_all_pages_of_s3(s3):
    folder = storage.join(s3, "many")
    put(folder, *map("{:04}".format, range(clouds.MANY)))
    assert names(folder) == [f"{number:04}" for number in range(clouds.MANY)]
    storage.delete(folder)
    assert not storage.exists(folder)


@pytest.mark.slow
def test_writes_what_takes_several_requests(root):
    content = os.urandom(1 << 20) * 101  # s3fs uploads more than 100 MB in parts, gcsfs more than 50
    write_atomically(storage.join(root, "file"), content)
    assert storage.read(storage.join(root, "file")) == content
    assert storage.create(storage.join(root, "new"), content)
    assert not storage.create(storage.join(root, "new"), content[:-1])
    assert storage.stamp(storage.join(root, "new"))[0] == len(content)


def test_a_folder_that_is_an_object_itself_is_not_in_its_listing(in_store):
    if in_store.startswith("memory"):
        pytest.skip("memory:// has no names that end in a slash")
    put(in_store, "folder/file", "folder/sub/file")
    import fsspec

    store = fsspec.filesystem(in_store.partition("://")[0])
    for name in ("folder/", "folder/sub/", "empty/"):  # what consoles write for "new folder"
        store.pipe_file(storage.join(in_store, name), b"")
    assert names(storage.join(in_store, "folder")) == ["file", "sub"]
    assert names(storage.join(in_store, "empty")) == []
    storage.delete(storage.join(in_store, "folder"))
    assert names(in_store) == ["empty"]


def test_an_object_and_a_folder_of_one_name_are_both_listed(in_store):
    put(in_store, "photos/1.jpg", "photos")
    found = [(entry.name, entry.is_folder) for entry in storage.list_folder(in_store)]
    assert found == [("photos", False), ("photos", True)]
    storage.delete(storage.join(in_store, "photos"))
    assert not storage.exists(in_store)


def test_odd_names_are_names_and_no_patterns(root):
    put(root, *ODD_NAMES)
    assert names(root) == sorted(ODD_NAMES)
    for name in ODD_NAMES:
        path = storage.join(root, name)
        assert storage.read(path) == storage.open_file(path).read() == b"content"
        assert storage.stamp(path)[0] == 7
    storage.delete(storage.join(root, "a[1].jpg"))
    storage.delete(storage.join(root, "a*"))
    assert names(root) == sorted(set(ODD_NAMES) - {"a[1].jpg", "a*"})


def test_a_failed_write_leaves_nothing_and_keeps_the_old_content(root):
    put(root, "old")
    for name in ("old", "new"):
        with (
            contextlib.suppress(ZeroDivisionError),
            storage.whole_file(storage.join(root, name)) as file,
        ):
            file.write(b"half of")
            raise ZeroDivisionError
    assert names(root) == ["old"]
    assert storage.read(storage.join(root, "old")) == b"content"


def test_what_is_being_written_is_not_seen(root):
    file = storage.join(root, "file")
    with storage.whole_file(file, durable=True) as new:
        new.write(b"x" * 3_000_000)
        assert not storage.exists(file)
    assert storage.stamp(file)[0] == 3_000_000


def test_creates_only_what_is_not_there(root):
    file = storage.join(root, "file")
    assert storage.create(file, "first")
    assert not storage.create(file, "second")
    assert storage.read(file) == b"first"
    assert names(root) == ["file"]
    storage.delete(file)
    assert storage.create(file, b"third")


CLAIM = """
    import sys
    from pipeline.format import storage
    root, me = sys.argv[1:]
    storage.exists(root)  # connects
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(40):
        if storage.create(storage.join(root, str(number)), me * 10_000):
            print(number)
"""


def test_of_racing_processes_one_gets_each_name(root):
    if root.startswith("memory"):
        pytest.skip("memory:// is of one process")
    command = [sys.executable, "-c", textwrap.dedent(CLAIM), root]
    racers = {
        me: subprocess.Popen([*command, me], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for me in "abcd"
    }
    for racer in racers.values():
        assert racer.stdout.readline() == "ready\n"
    for racer in racers.values():
        racer.stdin.write("go\n")
        racer.stdin.flush()
    claims = [(number, me) for me, racer in racers.items() for number in racer.communicate(timeout=60)[0].split()]
    assert sorted(int(number) for number, _ in claims) == list(range(40))
    assert len(names(root)) == 40
    for number, me in claims:
        assert storage.read(storage.join(root, number)) == me.encode() * 10_000


_FULL = """
    import resource, signal, sys
    from pipeline.format import storage
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    for write in (storage.write_atomically, storage.create):
        try:
            write(sys.argv[1], bytes(5000))
        except OSError as error:
            print(error)
"""


def test_a_disk_that_takes_no_more_is_told_with_the_file(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(_FULL), str(tmp_path / "file")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said == [f"[Errno 27] File too large: '{tmp_path}/file'"] * 2
    assert not list(tmp_path.iterdir())


def test_deletes_files_and_trees_and_what_is_not_there(root):
    put(root, "kept", "tree/file", "tree/sub/file", "trees", "file")
    for name in ("file", "tree", "absent", "absent/too"):
        storage.delete(storage.join(root, name))
    assert names(root) == ["kept", "trees"]


def test_a_file_deleted_and_made_again_by_another_one_stays(in_store, monkeypatch):
    put(in_store, "file")
    store = storage._store(in_store)
    remove = store.rm_file

    def made_again(name):
        remove(name)
        monkeypatch.undo()
        put(in_store, "file", content=b"another's")

    monkeypatch.setattr(store, "rm_file", made_again)
    storage.delete(storage.join(in_store, "file"))
    assert storage.read(storage.join(in_store, "file")) == b"another's"


@pytest.mark.parametrize(
    "function", [storage.read, storage.read_text, storage.open_file, storage.stamp, storage.list_folder]
)
def test_what_is_not_there_is_an_error_that_bears_the_path(root, function):
    put(root, "other")
    path = storage.join(root, "absent/file")
    with pytest.raises(FileNotFoundError) as caught:
        function(path)
    assert caught.value.filename == path


def test_no_bucket_is_an_error_that_bears_the_path(in_store):
    if in_store.startswith("memory"):
        pytest.skip("memory:// has no buckets")
    path = in_store.replace(clouds.BUCKET, "no-such-bucket") + "/file"
    writers = (functools.partial(function, content="x") for function in (write_atomically, storage.create))
    for function in (storage.read, storage.list_folder, *writers):
        with pytest.raises(FileNotFoundError) as caught:
            function(path)
        assert caught.value.filename == path
    assert not storage.exists(path)
    storage.delete(path)


def test_a_file_is_no_folder_and_a_folder_is_no_file(root):
    put(root, "folder/file")
    with pytest.raises(NotADirectoryError):
        storage.list_folder(storage.join(root, "folder/file"))
    for function in (storage.open_file, storage.stamp):
        with pytest.raises(IsADirectoryError):
            function(storage.join(root, "folder"))
    with pytest.raises(OSError):  # noqa: PT011 - IsADirectoryError, or that there is no such object
        storage.read(storage.join(root, "folder"))


ERRORS = """
    import functools, sys, time
    from pipeline.format import storage
    url = sys.argv[1]
    calls = {
        "read": storage.read, "open_file": storage.open_file, "exists": storage.exists, "stamp": storage.stamp,
        "list_folder": storage.list_folder, "write": functools.partial(storage.write_atomically, content="x"),
        "create": functools.partial(storage.create, content="x"), "delete": storage.delete,
    }
    for name in sys.argv[2:] or calls:
        started = time.monotonic()
        try:
            print(name, "gives", calls[name](url))
        except OSError as error:
            print(name, type(error).__name__, error.filename == url, time.monotonic() - started < 30)
        except BaseException as error:
            print(name, type(error).__name__, error)
"""
DENIED = {
    "gs": b'{"error": {"code": 403, "message": "x does not have storage.objects.get access"}}',
    "s3": b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>",
}
ENVIRONMENTS = {"gs": clouds.gcs_environment, "s3": clouds.s3_environment}


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_denied_access_is_a_permission_error(scheme):
    pytest.importorskip({"gs": "gcsfs", "s3": "s3fs"}[scheme])
    with clouds.answering(lambda method, path: (403, DENIED[scheme])) as url:
        done = run(ERRORS, f"{scheme}://bucket/file", **ENVIRONMENTS[scheme](url))
    lines = done.stdout.splitlines()
    assert len(lines) == 8
    assert {line.partition(" ")[2] for line in lines} == {"PermissionError True True"}, done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("scheme", ["gs", pytest.param("s3", marks=pytest.mark.slow)])
def test_a_server_that_is_not_there_is_an_error_within_seconds(scheme):
    pytest.importorskip({"gs": "gcsfs", "s3": "s3fs"}[scheme])
    environment = ENVIRONMENTS[scheme](f"http://127.0.0.1:{clouds.free_port()}")
    done = run(ERRORS, f"{scheme}://bucket/file", "read", **environment)
    assert done.stdout in ("read ConnectionRefusedError True True\n", "read OSError True True\n"), done.stdout
    assert done.stderr == ""


def test_no_credentials_are_a_permission_error(tmp_path):
    pytest.importorskip("s3fs")
    environment = clouds.s3_environment(f"http://127.0.0.1:{clouds.free_port()}")
    environment |= {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "HOME": str(tmp_path)}
    done = run(ERRORS, "s3://bucket/file", "read", **environment)
    assert done.stdout == "read PermissionError True True\n"


def test_what_fails_while_a_file_is_open_is_an_error_that_bears_the_path():
    pytest.importorskip("gcsfs")

    def answer(method: str, path: str) -> clouds.Answer:
        if path.startswith("/download"):
            return 403, DENIED["gs"]
        return 200, b'{"name": "file", "bucket": "bucket", "size": "100", "generation": "1"}'

    program = """
        from pipeline.format import storage
        file = storage.open_file("gs://bucket/file")
        try:
            file.read(10)
        except PermissionError as error:
            print(error.filename)
    """
    with clouds.answering(answer) as url:
        done = run(program, **clouds.gcs_environment(url))
    assert done.stdout == "gs://bucket/file\n"


def test_s3_is_asked_again_while_another_writes():
    pytest.importorskip("s3fs")
    conflict = (409, b"<Error><Code>ConditionalRequestConflict</Code><Message>again, please</Message></Error>")
    answers = [conflict, conflict, (200, b"")]
    with clouds.answering(lambda method, path: answers.pop(0)) as url:
        done = run(ERRORS, "s3://bucket/file", "create", **clouds.s3_environment(url))
    assert done.stdout == "create gives True\n"


@pytest.mark.parametrize(("scheme", "library", "extra"), [("gs", "gcsfs", "gcs"), ("s3", "s3fs", "s3")])
def test_a_missing_library_is_said_with_its_extra(scheme, library, extra):
    program = f"import sys; sys.modules[{library!r}] = None\n{textwrap.dedent(ERRORS)}"
    done = run(program, f"{scheme}://bucket/file", "read")
    assert done.stdout.startswith("read UsageError")
    assert f"tpu-retraining[{extra}]" in done.stdout


def test_an_unknown_kind_of_store_is_said():
    with pytest.raises(UsageError, match="ftpx://host/file: no such kind of store"):
        storage.read("ftpx://host/file")


def test_local_paths_do_without_fsspec(tmp_path):
    program = ERRORS + '\n    print("fsspec" in sys.modules)'
    assert run(program, str(tmp_path / "file")).stdout.splitlines()[-1] == "False"


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    file = tmp_path / "file"
    write_atomically(file, b"old")
    with pytest.raises(TypeError), whole_file(str(file), shared=True) as half:
        half.write("no bytes")  # type: ignore[arg-type]
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_takes_up_what_a_killed_writer_left(tmp_path):
    (tmp_path / ".file.tmp").write_text("half of")
    write_atomically(tmp_path / "file", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_writers_of_one_shared_file_do_not_meet(tmp_path):
    file = tmp_path / "file"
    contents = [str(number) * 100_000 for number in range(4)]
    failures = []

    def write(content):
        try:
            for _ in range(50):
                write_atomically(file, content, shared=True)
                assert file.read_text() in contents
        except (OSError, AssertionError) as failure:
            failures.append(failure)

    threads = [threading.Thread(target=write, args=[content]) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert list(tmp_path.iterdir()) == [file]


def test_what_answers_at_once_is_free_of_tensorflow():
    code = (
        "import sys, pipeline.format.storage, trainer.request, trainer.preflight.__main__\n"
        "print([m for m in ('tensorflow', 'keras', 'jax') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
