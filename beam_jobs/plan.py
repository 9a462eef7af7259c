"""Plans the dataset in steps, from distinct images: where classes are cut, every image's split, what may be written."""

from __future__ import annotations

import array
import collections
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam

from beam_jobs import splits
from beam_jobs.errors import BuildError
from beam_jobs.job_config import JobConfig
from beam_jobs.planning import NO_FAULT, Counts
from beam_jobs.rows import Row, split_group, split_stratum, unpack, unpack_rejects
from beam_jobs.shards import num_shards, record_bytes
from beam_jobs.spool import Block
from beam_jobs.stage import Spooling
from pipeline.command import DataError, ExitCode


class Positions(beam.DoFn):
    """Computes positions for the classes' cuts, of images whose split the build chooses. Block → (label, positions)."""

    def __init__(self, config: JobConfig) -> None:
        self._seed = config.seed

    def process(self, block: Block) -> Iterator[tuple[str, bytes]]:
        labels: dict[str, array.array[int]] = collections.defaultdict(lambda: array.array("Q"))
        for row in unpack(block):
            if row.official is None:
                labels[split_stratum(row)].append(splits.position(split_group(row), seed=self._seed))
        for label, positions in labels.items():
            yield label, positions.tobytes()


def cut_class(element: tuple[str, Iterable[bytes]], config: JobConfig) -> tuple[str, splits.Cuts | str]:
    """Cuts a class. (label, blocks of positions) → (label, where the class is cut, or why it cannot be)."""
    label, blocks = element
    if config.split_by == "hash":
        return label, splits.cuts_by_hash(config.fractions)
    sizes: collections.Counter[int] = collections.Counter()
    for block in blocks:
        sizes.update(array.array("Q", block))
    try:
        return label, splits.cuts_by_rank(sizes.items(), config.fractions)
    except DataError as error:
        return label, f'class "{label}": {error}'


class Assign(Spooling):
    """Decides the split of every row. Block → block with splits; tagged `counts`: [(split, label, examples, bytes)]."""

    def _split(self, row: Row, cuts: Mapping[str, splits.Cuts | str]) -> str:
        config = self._config
        if row.official is None:
            cut = cuts[split_stratum(row)]
            return config.fractions.names[0] if isinstance(cut, str) else cut.split(self._position(row))
        if row.official == "train" and "validation" not in config.official:
            held_out = config.validation_fraction * splits.POSITIONS
            return "validation" if self._position(row) < held_out else "train"
        return row.official

    def _position(self, row: Row) -> int:
        return splits.position(split_group(row), seed=self._config.seed)

    def process(self, block: Block, cuts: Mapping[str, splits.Cuts | str]) -> Iterator[Any]:
        # What only the steps before this one needed need not travel on.
        rows = [row._replace(split=self._split(row, cuts), perceptual_hash=b"") for row in unpack(block)]
        counts: dict[tuple[str, str], list[int]] = collections.defaultdict(lambda: [0, 0])
        for row in rows:
            count = counts[row.split or "", row.label]
            count[0] += 1
            count[1] += record_bytes(row)
        yield self.put(rows)
        yield beam.pvalue.TaggedOutput("counts", [(*key, *value) for key, value in counts.items()])


def reject_counts(block: Block) -> Counts:
    counts = collections.Counter(reject.code for reject in unpack_rejects(block))
    return [("", code, count, 0) for code, count in counts.items()]


def decide(counts: Counts, cuts: Mapping[str, splits.Cuts | str], config: JobConfig) -> dict[str, Any]:
    """Makes the plan: shards of each split, counts, and `error` (text or None): why nothing may be written.

    Raises:
      BuildError: the Beam runner lost images.
    """
    examples: dict[str, dict[str, int]] = {}
    sizes: collections.Counter[str] = collections.Counter()
    for split, label, count, size in counts:
        examples.setdefault(split, {})[label] = count
        sizes[split] += size
    rejects = examples.pop("", {})
    accounted = sum(count for _, _, count, _ in counts)
    if accounted != config.total:
        raise BuildError(
            ExitCode.INTERNAL,
            f"the Beam runner lost images: {accounted} of {config.total} arrived; nothing was published",
        )
    refused = sum(count for code, count in rejects.items() if code not in NO_FAULT)
    labels_left = {label for by_label in examples.values() for label in by_label}
    lost = [label for label in config.labels if label not in labels_left]
    uncut = sorted(cut for cut in cuts.values() if isinstance(cut, str))
    error = None
    if refused > config.max_reject_fraction * config.total:
        error = (
            f"{refused} of {config.total} images refused ({refused / config.total:.1%}), more than "
            f"--max_reject_fraction={config.max_reject_fraction:g} allows"
        )
    elif lost:
        error = f'class "{lost[0]}": none of its images is usable'
    elif uncut:
        error = f"{uncut[0]}; add images, or give fewer --splits"
    elif "train" not in examples and config.official:
        error = "no image is left for the train split"
    return {
        "error": error,
        "shards": {
            split: num_shards(examples=sum(labels.values()), size=sizes[split]) for split, labels in examples.items()
        },
        "examples": examples,
        "rejects": rejects,
    }
