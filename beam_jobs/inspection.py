"""Lists and inspects a source's items in 256 buckets, with a cache of what a full decode found in each image.

A bucket is chosen by the URI's hash, so an image stays in its bucket however the listing grows, and a rebuild decodes
only what is new: bucket `7f`'s cache file is read, the images whose URI and stamp it knows are taken from it, the rest
are decoded, and the file is replaced. Each file is replaced atomically: a killed build loses at most the buckets that
were under way, and a bucket that runs twice writes the same file.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence

import PIL

from beam_jobs.progress import Counter
from beam_jobs.read_ahead import read_ahead
from beam_jobs.rows import RejectRow, Row
from beam_jobs.sources import Source, SourceItem
from beam_jobs.spool import Place
from pipeline.format.storage import write_atomically
from pipeline.images import jpeg
from pipeline.images.facts import ImageFacts, Look, look, make_facts
from pipeline.images.pixels import FORMATS
from pipeline.images.policy import PixelPolicy, ReadError, Reject, RejectCode

# Part of the cache's key: to be raised when `facts.inspect` answers differently for the same bytes.
INSPECTION_VERSION = 3

_LOOKS = 16  # finished together: so few stay in the cache of the processor

BUCKETS = tuple(f"{number:02x}" for number in range(256))


def _bucket(uri: str) -> int:
    return hashlib.blake2b(uri.encode(), digest_size=1).digest()[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listing:
    """Describes what a source offers by counts; the items themselves lie in `directory`, one file a bucket.

    Attributes:
      directory: where the bucket files are.
      counts: (official split or None, label) → number of images.
      fingerprint: sha256 (hex) over everything listed and the source's own fingerprint.
    """

    directory: str
    counts: Mapping[tuple[str | None, str], int]
    fingerprint: str

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def labels(self) -> list[str]:
        return sorted({label for _, label in self.counts})


def write_listing(source: Source, directory: str) -> Listing:
    """Lists the source into bucket files; memory does not grow with the number of items.

    Raises: what `source.items` raises; OSError.
    """
    os.makedirs(directory, exist_ok=True)
    counts: collections.Counter[tuple[str | None, str]] = collections.Counter()
    # The sum of the lines' hashes does not depend on the order in which a source lists its items.
    total = 0
    files = [open(os.path.join(directory, name), "wb", buffering=1 << 15) for name in BUCKETS]  # noqa: SIM115
    try:
        for item in source.items():
            counts[item.split, item.label] += 1
            line = json.dumps([item.uri, item.label, item.split, item.stamp], ensure_ascii=False).encode() + b"\n"
            total += int.from_bytes(hashlib.sha256(line).digest(), "big")
            files[_bucket(item.uri)].write(line)
    finally:
        for file in files:
            file.close()
    digest = hashlib.sha256(f"{source.fingerprint()}\n{total % (1 << 256):x}".encode())
    return Listing(directory=directory, counts=dict(counts), fingerprint=digest.hexdigest())


def read_bucket(directory: str, bucket: str) -> list[SourceItem]:
    """Reads the items of one bucket, sorted by URI."""
    with open(os.path.join(directory, bucket), "rb") as file:
        rows = sorted(json.loads(line.decode()) for line in file)
    return [
        SourceItem(uri=uri, label=sys.intern(label), split=split and sys.intern(split), stamp=stamp)
        for uri, label, split, stamp in rows
    ]


def cache_key(policy: PixelPolicy) -> str:
    """Names the cache directory: results found under another policy, inspector or decoder do not count."""
    decoders = [INSPECTION_VERSION, PIL.__version__, jpeg.DECODER_VERSION, FORMATS]
    text = json.dumps([*decoders, dataclasses.asdict(policy)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspected:
    """Holds an image's cached result: the facts, or the reject; and the size of the file."""

    stamp: str
    bytes: int
    result: ImageFacts | Reject


def _to_json(uri: str, entry: Inspected) -> str:
    fields = dict(vars(entry.result))
    if isinstance(entry.result, Reject):
        fields["code"] = entry.result.code.value
    else:
        fields["perceptual_hash"] = entry.result.perceptual_hash.hex()
    return json.dumps([uri, entry.stamp, entry.bytes, fields], ensure_ascii=False)


def _from_json(line: bytes) -> tuple[str, Inspected]:
    uri, stamp, size, fields = json.loads(line.decode())  # json.loads would guess the encoding
    result: ImageFacts | Reject
    if "code" in fields:
        result = Reject(code=RejectCode(fields["code"]), detail=fields["detail"])
    else:
        fields["perceptual_hash"] = bytes.fromhex(fields["perceptual_hash"])
        result = ImageFacts(**fields)
    return uri, Inspected(stamp=stamp, bytes=size, result=result)


def read_cache(path: str) -> dict[str, Inspected]:
    """Reads a cache file as URI → result; a damaged line only costs its image's decoding."""
    entries = {}
    try:
        with open(path, "rb") as file:
            for line in file:
                try:
                    uri, entry = _from_json(line)
                except (ValueError, TypeError, KeyError):
                    continue
                entries[uri] = entry
    except FileNotFoundError:
        pass
    return entries


def _is_known(item: SourceItem, known: Mapping[str, Inspected]) -> bool:
    entry = known.get(item.uri)
    return entry is not None and entry.stamp == item.stamp


def inspected_row(item: SourceItem, size: int, facts: ImageFacts, image: Place | None = None) -> Row:
    """Makes the row of an accepted image whose file takes `size` bytes; `image`: see `Row`."""
    return Row(
        id=item.raw_id or bytes.fromhex(facts.sha256),
        pixels=bytes.fromhex(facts.pixel_sha256),
        perceptual_hash=facts.perceptual_hash,
        uri=item.uri,
        label=item.label,
        official=item.split,
        stamp=item.stamp,
        split=None,
        height=facts.height,
        width=facts.width,
        channels=facts.channels,
        format=sys.intern(facts.format),
        bytes=size,
        keeps_bytes=facts.keeps_bytes,
        brightness=facts.brightness,
        sharpness=facts.sharpness,
        image=image,
    )


def inspect_items(
    items: Sequence[SourceItem],
    source: Source,
    *,
    policy: PixelPolicy,
    cache_file: str,
    progress: Counter,
    store: Callable[[bytes], Place],
) -> tuple[list[Row], list[RejectRow]]:
    """Inspects a bucket's items, those that the cache does not know by decoding them, and replaces the cache.

    Args:
      items: of the bucket.
      source: reads them.
      policy: what is accepted.
      cache_file: of the bucket.
      progress: counts the items.
      store: puts an image that had to be encoded anew where the shard's writer finds it, who need not decode it again.

    Raises:
      OSError: the cache cannot be written.
    """
    known = read_cache(cache_file)
    entries = {item.uri: known[item.uri] for item in items if _is_known(item, known)}
    progress.add(len(entries))
    unread: dict[str, RejectRow] = {}  # not cached: reading may work next time although the stamp is the same
    images: dict[str, Place] = {}
    looks: list[tuple[SourceItem, int, Look]] = []

    def finish_looks() -> None:
        for (item, size, _), facts in zip(looks, make_facts([seen for *_, seen in looks]), strict=True):
            entries[item.uri] = Inspected(stamp=item.stamp, bytes=size, result=facts)
        looks.clear()

    unknown = [item for item in items if item.uri not in entries]
    for item in read_ahead(unknown, source, item=lambda item: item):
        progress.add()
        try:
            data = source.read(item)
        except ReadError as error:
            unread[item.uri] = RejectRow.make(item, error.code, error.detail)
            continue
        seen = look(data, policy)
        if isinstance(seen, Reject):
            entries[item.uri] = Inspected(stamp=item.stamp, bytes=len(data), result=seen)
            continue
        if seen.image is not None:
            images[item.uri] = store(seen.image)
        looks.append((item, len(data), dataclasses.replace(seen, image=None)))
        if len(looks) == _LOOKS:
            finish_looks()
    finish_looks()
    rows, rejects = [], list(unread.values())
    for item in items:
        if entry := entries.get(item.uri):
            if isinstance(entry.result, Reject):
                rejects.append(RejectRow.make(item, entry.result.code, entry.result.detail))
            else:
                rows.append(inspected_row(item, entry.bytes, entry.result, images.get(item.uri)))
    if entries != known:
        lines = (_to_json(uri, entry) for uri, entry in entries.items())
        write_atomically(cache_file, "".join(f"{line}\n" for line in lines), shared=True)
    return rows, rejects
