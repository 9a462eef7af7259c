"""Plans what is written, when every image listed is accounted for: here runners that lose rows are found out."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Mapping

import apache_beam as beam

from beam_jobs import root
from beam_jobs.assign import Assigned
from beam_jobs.bundles import late
from beam_jobs.elements import Cut, Listing, Plan, Reject, Row
from beam_jobs.errors import BuildError, crossing
from beam_jobs.settings import Settings
from beam_jobs.shards import num_shards, record_bytes
from beam_jobs.summary import labels_of
from pipeline.command import ExitCode
from pipeline.images.policy import PixelPolicy, RejectCode

# A copy is no fault of the input: nothing is lost by leaving it out. Nor is what a person leaves out.
_NO_FAULT = frozenset(
    code.value
    for code in (RejectCode.DUPLICATE, RejectCode.NEAR_DUPLICATE, RejectCode.TRAIN_COPY_OF_TEST, RejectCode.EXCLUDED)
)

# (split, label, images, bytes); rejects stand under the split "" with their code as label
Counts = list[tuple[str, str, int, int]]


class CountUp(beam.DoFn):
    """Counts what is kept and refused, a bundle at a time. Row or reject → (None, counts)."""

    def __init__(self, policy: PixelPolicy) -> None:
        self._policy = policy

    def start_bundle(self) -> None:
        self._sums: dict[tuple[str, str], list[int]] = collections.defaultdict(lambda: [0, 0])

    def process(self, element: Row | Reject) -> None:
        if isinstance(element, Reject):
            self._sums["", element.code][0] += 1
        else:
            sums = self._sums[element.split or "", element.item.label]
            sums[0] += 1
            sums[1] += record_bytes(element, self._policy)

    def finish_bundle(self) -> Iterator[tuple[None, Counts]]:
        if self._sums:
            yield late((None, [(*key, *value) for key, value in sorted(self._sums.items())]))


def _add_counts(several: Iterable[Counts]) -> Counts:
    """Adds up counts."""
    sums: dict[tuple[str, str], list[int]] = collections.defaultdict(lambda: [0, 0])
    for counts in several:
        for split, label, images, size in counts:
            sums[split, label][0] += images
            sums[split, label][1] += size
    return sorted((split, label, images, size) for (split, label), (images, size) in sums.items())


def lost(accounted: int, total: int) -> BuildError:
    """Makes the error that ends a build whose runner has lost images."""
    return BuildError(
        ExitCode.INTERNAL, f"the Beam runner lost images: {accounted} of {total} arrived; nothing was published"
    )


def _problem(
    examples: Mapping[str, Mapping[str, int]],
    rejects: Mapping[str, int],
    cuts: Iterable[Cut],
    listing: Listing,
    settings: Settings,
) -> str | None:
    """Says why the images that are left make no dataset."""
    build, total = settings.build, listing.total
    refused = sum(count for code, count in rejects.items() if code not in _NO_FAULT)
    labels_left = {label for by_label in examples.values() for label in by_label}
    lost = [label for label in labels_of(listing, settings) if label not in labels_left]
    uncut = sorted(cut.error for cut in cuts if cut.error)
    if refused > build.max_reject_fraction * total:
        return (
            f"{refused} of {total} images refused ({refused / total:.1%}), more than "
            f"--max_reject_fraction={build.max_reject_fraction:g} allows"
        )
    if lost:
        return f'class "{lost[0]}": none of its images is usable'
    if uncut:
        return f"{uncut[0]}; add images, or give fewer --splits"
    if "train" not in examples and listing.official:
        return "no image is left for the train split"
    return None


def decide(
    element: tuple[None, Iterable[Counts]], cuts: Mapping[str, Cut], listing: Listing, settings: Settings
) -> Plan:
    """(None, counts of the bundles) → plan, with a version claimed for it.

    Raises:
      BuildError: images are lost; or what is left makes no dataset.
    """
    examples: dict[str, dict[str, int]] = {}
    sizes: collections.Counter[str] = collections.Counter()
    for split, label, count, size in _add_counts(element[1]):
        examples.setdefault(split, {})[label] = count
        sizes[split] += size
    accounted = sum(sum(labels.values()) for labels in examples.values())
    rejects = examples.pop("", {})
    if accounted != listing.total:
        raise lost(accounted, listing.total)
    if problem := _problem(examples, rejects, cuts.values(), listing, settings):
        # In one line, because Beam lets through the first one of an error's text.
        table = ", ".join(f"{count} {code}" for code, count in sorted(rejects.items()))
        raise BuildError(ExitCode.DATA, f"{problem}; nothing was published{table and f' ({table})'}")
    with crossing(settings.build.output):
        version = root.claim(settings.build.output, listing.key)
    return Plan(
        version=version,
        total=listing.total,
        fingerprint=listing.fingerprint,
        key=listing.key,
        labels=labels_of(listing, settings),
        shards={split: num_shards(examples=sum(of.values()), size=sizes[split]) for split, of in examples.items()},
        examples=examples,
        rejects=rejects,
    )


def planned(
    assigned: Assigned,
    rejects: beam.PCollection[Reject],
    listing: beam.PCollection[Listing],
    settings: Settings,
) -> beam.PCollection[Plan]:
    """Adds the steps that count all images and make the one plan."""
    counts = [
        several | label >> beam.ParDo(CountUp(settings.build.policy)).with_output_types(tuple[None, Counts])
        for label, several in (("CountKept", assigned.rows), ("CountRefused", rejects))
    ]
    return (
        counts
        | "AllCounts" >> beam.Flatten()
        | "GatherCounts" >> beam.GroupByKey()
        | "Plan"
        >> beam.Map(
            decide, beam.pvalue.AsDict(assigned.cuts), beam.pvalue.AsSingleton(listing), settings
        ).with_output_types(Plan)
    )
