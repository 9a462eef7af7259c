"""Says how many shards a split has, what they are called, and which image goes where: all functions of content hashes.

So any number of workers, in any order, killed or not, write the same bytes.
"""

from __future__ import annotations

import dataclasses
import json

from beam_jobs.elements import Row
from beam_jobs.statistics import Tally
from pipeline.format.manifest import Shard
from pipeline.images.encode import LOSSLESS_FORMATS
from pipeline.images.policy import PixelPolicy

# Large enough to stream well from object stores, small enough that many hosts and workers get one each.
_SHARD_BYTES = 64 << 20
_SHARD_EXAMPLES = 4096
# JPEG at quality 95: what a record takes whose image is encoded anew, measured on photos.
_BYTES_PER_PIXEL = 0.45
_PNG_BYTES_PER_PIXEL = 2.2  # measured on CIFAR-10


def record_bytes(row: Row, policy: PixelPolicy) -> int:
    """Estimates how many bytes the row's record will take; the same on every machine."""
    facts = row.facts
    if facts.keeps_bytes:
        return row.size
    lossless = policy.lossless and facts.format in LOSSLESS_FORMATS
    return int(facts.height * facts.width * (_PNG_BYTES_PER_PIXEL if lossless else _BYTES_PER_PIXEL))


def num_shards(*, examples: int, size: int) -> int:
    """Counts the shards for a split's examples and bytes: a power of two, so that hosts can share them evenly."""
    wanted = max(-(-size // _SHARD_BYTES), -(-examples // _SHARD_EXAMPLES), 1)
    return 1 << (wanted - 1).bit_length()


def shard_of(row: Row, count: int) -> int:
    """Chooses the shard, out of `count`, by the row's content hash."""
    # Not the leading bytes: they order the rows inside a shard.
    return int.from_bytes(row.id[-8:], "big") % count


def shard_name(*, name: str, split: str, shard: int, count: int) -> str:
    """Names a shard as TFDS does: `photos-train.tfrecord-00000-of-00008`."""
    return f"{name}-{split}.tfrecord-{shard:05d}-of-{count:05d}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardReport:
    """Describes what was written: the manifest's entry, and the tally for the statistics."""

    shard: Shard
    tally: Tally

    def to_json(self) -> str:
        return json.dumps({"shard": dataclasses.asdict(self.shard), "tally": self.tally.to_data()}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ShardReport:
        data = json.loads(text)
        return cls(shard=Shard(**data["shard"]), tally=Tally.from_data(data["tally"]))
