import json
import os
import pathlib

from beam_jobs import inspection
from beam_jobs.progress import Counter
from beam_jobs.sources import SourceItem
from beam_jobs.sources.folder import FolderSource
from beam_jobs.spool import Spool, content
from pipeline.images.encode import render
from pipeline.images.policy import PixelPolicy
from tests.beam_jobs.image_folders import make_folder, save_image


class CountingSource(FolderSource):
    """Notes what is read."""

    def read(self, item: SourceItem) -> bytes:
        self.options.setdefault("read", []).append(item.uri)
        return super().read(item)


def inspect_all(folder: pathlib.Path, cache: pathlib.Path, tmp_path: pathlib.Path, policy: PixelPolicy | None = None):
    """Lists and inspects everything; returns (rows without the images stored for the writer, rejects, URIs read)."""
    source = CountingSource(str(folder), {})
    listing = inspection.write_listing(source, str(tmp_path / "listing"))
    counters = tmp_path / "progress"
    counters.mkdir(exist_ok=True)
    policy = policy or PixelPolicy()
    directory = cache / inspection.cache_key(policy)
    directory.mkdir(parents=True, exist_ok=True)
    rows, rejects = [], []
    for bucket in inspection.BUCKETS:
        found = inspection.inspect_items(
            inspection.read_bucket(listing.directory, bucket),
            source,
            policy=policy,
            cache_file=str(directory / bucket),
            progress=Counter(str(counters), "inspecting"),
            store=Spool(str(counters)).store,
        )
        rows += [row._replace(image=None) for row in found[0]]
        rejects += found[1]
    return rows, rejects, sorted(source.options.get("read", []))


def test_the_second_time_nothing_is_decoded_and_the_result_is_the_same(tmp_path):
    make_folder(tmp_path / "in", images=6)
    (tmp_path / "in/cat/broken.jpg").write_bytes(b"no image")
    first = inspect_all(tmp_path / "in", tmp_path / "cache", tmp_path)
    assert len(first[0]) == 12
    assert len(first[1]) == 1
    assert len(first[2]) == 13
    again = inspect_all(tmp_path / "in", tmp_path / "cache", tmp_path)
    assert again == (first[0], first[1], [])


def test_images_encoded_anew_wait_in_the_spool_and_others_do_not(tmp_path):
    make_folder(tmp_path / "in", images=4)
    (tmp_path / "spool").mkdir()
    source = FolderSource(str(tmp_path / "in"))
    rows, _ = inspection.inspect_items(
        list(source.items()),
        source,
        policy=PixelPolicy(),
        cache_file=str(tmp_path / "cache"),
        progress=Counter(str(tmp_path / "spool"), "inspecting"),
        store=Spool(str(tmp_path / "spool")).store,
    )
    assert [row.image is None for row in rows] == [row.uri.endswith(".jpg") for row in rows]
    for row in rows:
        if row.image:
            assert content(row.image) == render(source.read(row.item()), PixelPolicy())


def test_only_what_is_new_or_changed_is_read(tmp_path):
    make_folder(tmp_path / "in", images=6)
    inspect_all(tmp_path / "in", tmp_path / "cache", tmp_path)
    save_image(tmp_path / "in/cat/new.png", 777)
    save_image(tmp_path / "in/dog/1001.jpg", 778)
    rows, _, read = inspect_all(tmp_path / "in", tmp_path / "cache", tmp_path)
    assert read == ["cat/new.png", "dog/1001.jpg"]
    assert len(rows) == 13


def test_a_damaged_cache_only_costs_time(tmp_path):
    make_folder(tmp_path / "in", images=6)
    rows, _, _ = inspect_all(tmp_path / "in", tmp_path / "cache", tmp_path)
    files = [path for path in (tmp_path / "cache").rglob("??") if path.is_file()]
    for number, path in enumerate(files):
        text = path.read_bytes()
        path.write_bytes([b"\xff\x00", text[: len(text) // 2], b"[1, 2]\n{}\n"][number % 3])
    again, _, read = inspect_all(tmp_path / "in", tmp_path / "cache", tmp_path)
    assert again == rows
    assert len(read) == 12


def test_another_policy_has_its_own_results(tmp_path):
    make_folder(tmp_path / "in", images=3)
    inspect_all(tmp_path / "in", tmp_path / "cache", tmp_path)
    _, rejects, _ = inspect_all(tmp_path / "in", tmp_path / "cache", tmp_path, PixelPolicy(min_side=100))
    assert {reject.code for reject in rejects} == {"too_small"}
    assert len(rejects) == 6


def test_what_could_not_be_read_is_tried_again(tmp_path):
    make_folder(tmp_path / "in", images=3)
    target = tmp_path / "in/cat/0.png"
    content, stamp = target.read_bytes(), target.stat()
    target.unlink()
    os.symlink("/proc/self/mem", target)  # a file that opens and cannot be read, even by root
    _, rejects, _ = inspect_all(tmp_path / "in", tmp_path / "cache", tmp_path)
    assert [reject.code for reject in rejects] == ["unreadable"]
    target.unlink()
    target.write_bytes(content)
    os.utime(target, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    rows, rejects, read = inspect_all(tmp_path / "in", tmp_path / "cache", tmp_path)
    assert (len(rows), rejects, read) == (6, [], ["cat/0.png"])


def test_the_fingerprint_knows_every_item_but_not_their_order(tmp_path):
    class Listed(FolderSource):
        def items(self):
            return iter(self.options["items"])

    def fingerprint(*items: SourceItem) -> str:
        return inspection.write_listing(Listed("x", {"items": items}), str(tmp_path / "listing")).fingerprint

    one, two = SourceItem(uri="1", label="a", stamp="s"), SourceItem(uri="2", label="a", stamp="s")
    base = fingerprint(one, two)
    assert fingerprint(two, one) == base
    assert fingerprint(one) != base
    assert fingerprint(one, SourceItem(uri="2", label="b", stamp="s")) != base
    assert fingerprint(one, SourceItem(uri="2", label="a", stamp="t")) != base
    assert fingerprint(one, SourceItem(uri="2", label="a", stamp="s", split="test")) != base


def test_listing_lines_survive_odd_names(tmp_path):
    (tmp_path / "in/a b").mkdir(parents=True)
    (tmp_path / 'in/a b/"quote"\nline.jpg').write_bytes(b"x")
    listing = inspection.write_listing(FolderSource(str(tmp_path / "in")), str(tmp_path / "listing"))
    items = [item for bucket in inspection.BUCKETS for item in inspection.read_bucket(listing.directory, bucket)]
    assert [item.uri for item in items] == ['a b/"quote"\nline.jpg']
    assert json.dumps(listing.labels()) == '["a b"]'
