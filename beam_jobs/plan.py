"""Plans what is written, when every image listed is accounted for: here runners that lose rows are found out."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Mapping

import apache_beam as beam

from beam_jobs import refusal, root
from beam_jobs.assign import Assigned, Stratum
from beam_jobs.bundles import late
from beam_jobs.elements import Cut, Listing, Plan, Reject, Row
from beam_jobs.errors import BuildError, crossing
from beam_jobs.outlook import Outlook, notes_of, problem_of
from beam_jobs.settings import Settings
from beam_jobs.shards import num_shards, record_bytes
from beam_jobs.summary import labels_of
from pipeline.command import ExitCode
from pipeline.images.policy import PixelPolicy

# (split, label, reject code, images, bytes): kept images without a code; rejects under their official split
Counts = list[tuple[str, str, str, int, int]]


class CountUp(beam.DoFn):
    """Counts what is kept and refused, a bundle at a time. Row or reject → (None, counts)."""

    def __init__(self, policy: PixelPolicy) -> None:
        self._policy = policy

    def start_bundle(self) -> None:
        self._sums: dict[tuple[str, str, str], list[int]] = collections.defaultdict(lambda: [0, 0])

    def process(self, element: Row | Reject) -> None:
        if isinstance(element, Reject):
            self._sums[element.item.split or "", element.item.label, element.code][0] += 1
        else:
            sums = self._sums[element.split or "", element.item.label, ""]
            sums[0] += 1
            sums[1] += record_bytes(element, self._policy)

    def finish_bundle(self) -> Iterator[tuple[None, Counts]]:
        if self._sums:
            yield late((None, [(*key, *value) for key, value in sorted(self._sums.items())]))


def _outlook(several: Iterable[Counts], cuts: Mapping[Stratum, Cut], listing: Listing, settings: Settings) -> Outlook:
    """Adds up counts."""
    examples: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    rejects: collections.Counter[tuple[str, str, str]] = collections.Counter()
    sizes: collections.Counter[str] = collections.Counter()
    for counts in several:
        for split, label, code, images, size in counts:
            if code:
                rejects[split, label, code] += images
            else:
                examples[split][label] += images
                sizes[split] += size
    errors = {label: cut.error for (_, label), cut in sorted(cuts.items()) if cut.error}
    dropped = errors if settings.build.small_classes == "drop" else ()
    labels, order = labels_of(listing, settings)
    return Outlook(
        labels=tuple(label for label in labels if label not in dropped),
        label_order=order,
        examples={split: dict(sorted(of.items())) for split, of in sorted(examples.items())},
        sizes=dict(sizes),
        rejects=dict(rejects),
        too_small=errors,
    )


def lost(accounted: int, total: int) -> BuildError:
    """Makes the error that ends a build whose runner has lost images."""
    return BuildError(
        ExitCode.INTERNAL, f"the Beam runner lost images: {accounted} of {total} arrived; nothing was published"
    )


def decide(
    element: tuple[None, Iterable[Counts]],
    cuts: Mapping[Stratum, Cut],
    listing: Listing,
    rejects: Iterable[Reject],
    settings: Settings,
) -> Plan:
    """(None, counts of the bundles) → plan, with a version claimed for it.

    Raises:
      BuildError: images are lost; or what is left makes no dataset: then the launcher finds a note with the rejects.
    """
    outlook = _outlook(element[1], cuts, listing, settings)
    if outlook.images + outlook.refused != listing.total:
        raise lost(outlook.images + outlook.refused, listing.total)
    notes = notes_of(outlook, listing, rejects, settings)
    problem = problem_of(outlook, listing, settings)
    with crossing(settings.build.output):
        if problem:
            refusal.note(list(rejects), notes, settings)
            # In one line, because Beam lets through the first one of an error's text.
            table = ", ".join(f"{count} {code}" for code, count in sorted(outlook.by_code.items()))
            raise BuildError(ExitCode.DATA, f"{problem}; nothing was published{table and f' ({table})'}")
        version = root.claim(settings.build.output, listing.key)
    return Plan(
        version=version,
        total=listing.total,
        fingerprint=listing.fingerprint,
        key=listing.key,
        labels=outlook.labels,
        label_order=outlook.label_order,
        shards={
            split: num_shards(examples=sum(of.values()), size=outlook.sizes[split])
            for split, of in outlook.examples.items()
        },
        examples=outlook.examples,
        rejects=outlook.by_code,
        left_out=listing.left_out,
        notes=tuple(notes),
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
            decide,
            beam.pvalue.AsDict(assigned.cuts),
            beam.pvalue.AsSingleton(listing),
            beam.pvalue.AsIter(rejects),
            settings,
        ).with_output_types(Plan)
    )
