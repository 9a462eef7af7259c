"""Builds the Beam graph from a source to a version, the same on every engine and every store.

    listed → (downloaded) → joined with what is known → inspected → (corrected) → without copies → near duplicates
    grouped → split → planned → shards → version

Elements are values (elements.py). Rows travel, image bytes never: who writes a shard reads each image again. A bundle
may run twice or be killed: what a step leaves behind is whole, and the same whoever leaves it.
"""

from __future__ import annotations

import apache_beam as beam

from beam_jobs.assign import split_up
from beam_jobs.correct import corrected, rejects_corrected, without_excluded
from beam_jobs.downloaded import downloaded
from beam_jobs.duplicates.copies import grouped, without_copies
from beam_jobs.inspect import inspected
from beam_jobs.known import recalled
from beam_jobs.listing import listed, summed_up, to_build
from beam_jobs.plan import planned
from beam_jobs.settings import Settings
from beam_jobs.version.finish import finished
from beam_jobs.version.gallery import picked
from beam_jobs.version.write import tabled, written


def build_graph(pipeline: beam.Pipeline, settings: Settings) -> beam.PCollection[str]:
    """Adds the whole build to a pipeline; returns the version that holds the dataset, "" where it did before."""
    found = listed(pipeline, settings)  # items: Item, left_out: LeftOut
    fetched = downloaded(found.items, settings)  # items: Item, rejects: Reject
    listing = summed_up(fetched, found.left_out, settings)  # Listing, one
    here = to_build(fetched, listing)  # items: Item, rejects: Reject
    known = recalled(here.items, listing, settings)  # rows: Row, rejects: Reject, unknown: Item; if anything is
    wanted = without_excluded(known.unknown, listing, settings)  # items: Item, rejects: Reject
    new = inspected(wanted.items, settings)  # rows: Row, rejects: Reject
    usable = corrected({**known.rows, "New": new.rows}, listing, settings)  # rows: Row, rejects: Reject
    unique = without_copies(usable.rows)  # rows: Row, rejects: Reject, copies: Copies
    distinct = grouped(unique, listing, settings)  # rows: Row, rejects: Reject, copies: Copies
    copies = distinct.copies | "AllCopies" >> beam.Flatten()  # Copies
    assigned = split_up(distinct.rows, listing, settings)  # rows: Row, rejects: Reject, cuts: (class, Cut)
    unusable = rejects_corrected((*here.rejects, *known.rejects, new.rejects), settings)  # Reject
    refused = (*unusable, *wanted.rejects, *usable.rejects, *distinct.rejects, assigned.rejects)
    rejects = refused | "AllRejects" >> beam.Flatten()  # Reject
    plan = planned(assigned, rejects, listing, settings)  # Plan, one
    reports = written(assigned.rows, plan, settings)  # ShardReport
    tables = tabled(rejects, plan, settings)  # int
    pictures = picked(assigned.rows)  # Pictures, one
    return finished(listing, plan, reports, rejects, copies, tables, pictures, settings)  # str, one
