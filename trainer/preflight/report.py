"""Writes the report that is printed. Free of TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from trainer.devices.tpus import GIB, Slice
from trainer.preflight.anchors import ANCHORS, fractions
from trainer.preflight.batches import TOLERANCE
from trainer.preflight.compiling import Compiled
from trainer.preflight.findings import Report, Searched, Step
from trainer.preflight.roofline import (
    Bounds,
    Stretch,
    bounds_of,
    cores_needed,
    likely_seconds,
    stretches,
    total_seconds,
)

_MORE_THAN_ASKED = 1.05
_BYTES_WORTH_A_LINE = 100_000  # of padding


def lines(report: Report, target: Slice, *, price: float = 0.0) -> Iterator[str]:
    """Yields the report's lines; where a report goes on, so do its lines.

    Args:
      report: whole or not.
      target: the slice.
      price: of a chip-hour, 0 where it is not known.
    """
    generation = target.generation
    yield report.title
    yield f"data: {report.data}"
    yield (
        f"slice: {target.name}, {_count(target.chips, 'chip')} on {_count(target.hosts, 'host')} of "
        f"{target.host_cores} vCPUs; a chip: "
        f"{generation.peak_flops / 1e12:.0f} TFLOP/s bfloat16, {generation.memory_bandwidth / 1e9:.0f} GB/s, "
        f"{generation.memory_limit / GIB:.2f} GiB for a program ({generation.source})"
    )
    yield f"compiled by libtpu {report.versions['libtpu']} (jax {report.versions['jax']}), no TPU involved"
    for note in report.notes:
        yield f"note: {note}"
    yield (
        f"channels: the layers', filled up to multiples of {generation.matrix_unit} as the matrix unit takes them, are "
        f"{report.channel_fill:.0%} full"
    )
    for step in report.steps:
        yield ""
        yield from _step_lines(step, target)
    if report.feed is not None and report.fits:
        parts = stretches(report, target)
        yield ""
        yield from _time_lines(parts, target, price, input_rate=target.cores / report.feed["core_seconds"])
        yield ""
        yield from _feed_lines(report.feed, target, parts)
    if report.searched:
        yield ""
        yield from _search_lines(report.searched, target)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _step_lines(step: Step, target: Slice) -> Iterator[str]:
    c = step.compiled
    yield f"{step.name}, {_count(c.batch, 'image')} a chip"
    if not c.fits:
        yield from _failure_lines(c)
        return
    bounds = bounds_of(step, target)
    limit = target.generation.memory_limit
    yield (
        f"  memory      fits: {_size(c.needed)} of {_size(limit)} (arguments {_size(c.arguments)}, "
        f"temporaries {_size(c.temporaries)})"
    )
    yield (
        f"  work        {c.flops / 1e9:.4g} GFLOP, {c.product_flops / 1e9:.4g} of them in convolutions and matrix "
        f"products (the layers ask for {step.product_flops / 1e9:.4g})"
    )
    if c.product_flops > _MORE_THAN_ASKED * step.product_flops:
        extra = c.product_flops / step.product_flops - 1
        yield f"              {extra:.0%} more than asked for: so small a batch is filled up; a larger one wastes less"
    yield (
        f"              {c.bytes_accessed / 1e9:.3g} GB accessed by the compiler's count, {c.traffic / 1e9:.3g} GB to "
        "and from the chip's HBM with padding"
    )
    exchanged = [
        f"{_count(one.count, one.kind)} of {_size(one.bytes)}" + ("" if one.waits else " beside the work")
        for one in c.collectives
        if target.chips > 1
    ]
    yield f"  exchange    {', '.join(exchanged) or 'nothing between the chips'}"
    yield (
        f"  roofline    compute {c.batch / bounds.compute:,.0f}, memory {c.batch / bounds.memory:,.0f} images/s a chip"
        + (f", links {c.batch / bounds.network:,.0f}" if bounds.network else "")
        + f", copy from the host {c.batch / bounds.copy:,.0f}"
    )
    yield f"  speed       {_speed(c.batch, bounds, target)}"
    waste = 1 - c.plain_bytes / c.padded_bytes if c.padded_bytes else 0.0
    worst = [padding for padding in c.worst_padding if padding[0] >= _BYTES_WORTH_A_LINE]
    yield f"  padding     {waste:.1%} of the memory that tensors take" + (", most of it:" if worst else "")
    for wasted, what, where in worst:
        yield f"              {wasted / 1e6:,.1f} MB  {what}" + (f"  ({where})" if where else "")
    yield f"  host        {', '.join(c.on_host) if c.on_host else 'no operation falls to the host'}"


def _search_lines(searched: Searched, target: Slice) -> Iterator[str]:
    if searched.largest is None:
        yield f"largest batch ({searched.name}): none fits; {searched.too_large} a chip was the smallest one tried"
        return
    largest = searched.largest.compiled
    if searched.too_large:
        beyond = f"{searched.too_large:,} does not"
    elif largest.batch > (1 - TOLERANCE) * searched.images:
        beyond = f"there are no more than {searched.images:,} training images a chip"
    else:
        beyond = "a larger one was not tried"
    yield (
        f"largest batch ({searched.name}): {largest.batch:,} a chip fits in {_size(largest.needed)}, "
        f"{largest.batch * target.chips:,} a slice; {beyond}"
    )
    yield f"              {_speed(largest.batch, bounds_of(searched.largest, target), target)}"


def _speed(batch: int, bounds: Bounds, target: Slice) -> str:
    """Says how fast steps of `batch` images a chip are, at best and likely."""
    fast, slow = (batch / seconds for seconds in bounds.likely)
    return (
        f"at most {batch / bounds.seconds:,.0f} images/s a chip, bound by {bounds.bound_by}; likely {slow:,.0f} to "
        f"{fast:,.0f}, a slice {slow * target.chips:,.0f} to {fast * target.chips:,.0f}"
    )


def _failure_lines(c: Compiled) -> Iterator[str]:
    if c.out_of_memory:
        sizes = f": {_size(c.needed)}, there are {_size(c.limit)}" if c.needed else ""
        yield f"  memory      does not fit{sizes}; a smaller batch, --set=accumulate=N, or more chips"
    else:
        yield f"  does not compile: {c.error.splitlines()[0][:300]}"


def _time_lines(parts: list[Stretch], target: Slice, price: float, *, input_rate: float) -> Iterator[str]:
    least, most = fractions()
    yield "the whole recipe (starting, compiling and exporting are not counted)"
    for part in parts:
        yield _time_line(part.name, [part], target, input_rate)
    yield _time_line("all", parts, target, input_rate)
    if price:
        hours = (seconds / 3600 for seconds in likely_seconds(parts, input_rate=input_rate))
        fast, slow = (price * target.chips * each for each in hours)
        yield f"  likely price                     {fast:.4g} to {slow:.4g}, at {price:g} a chip-hour"
    yield f"  likely: as the hosts feed it, at {least:.0%} to {most:.0%} of the roofline, which measured runs reached:"
    for anchor in sorted(ANCHORS, key=lambda anchor: anchor.fraction):
        yield f"    {anchor.fraction:.0%} {anchor.what} ({anchor.source})"


def _time_line(name: str, parts: list[Stretch], target: Slice, input_rate: float) -> str:
    fast, slow = likely_seconds(parts, input_rate=input_rate)
    hours = [seconds / 3600 * target.chips for seconds in (fast, slow)]
    return (
        f"  {name:<32} {sum(part.steps for part in parts):>9,} steps  at least {_hours(total_seconds(parts)):>8}, "
        f"likely {_hours(fast)} to {_hours(slow)}, {hours[0]:.3g} to {hours[1]:.3g} chip-hours"
    )


def _size(count: float) -> str:
    """Formats a number of bytes."""
    return f"{count / GIB:.2f} GiB" if count >= GIB / 10 else f"{count / 2**20:.3g} MiB"


def _hours(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2g} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _feed_lines(feed: Mapping[str, Any], target: Slice, parts: list[Stretch]) -> Iterator[str]:
    cost, cores = feed["core_seconds"], feed["cores"]
    yield (
        f"input pipeline: {cost * 1e3:.3g} ms of a core's time an image, measured on {_count(cores, 'core')} of "
        f"{feed['machine']} ({feed['sample']})"
    )
    hungry = [part for part in parts if part.needs_input]
    if not hungry:
        return
    main = max(hungry, key=lambda part: part.total)
    rate = main.images / main.seconds
    yield f"  {main.name} at the roofline takes {rate:,.0f} images/s: {cores_needed(rate, cost):,.0f} cores like those"
    if target.hosts > 1:
        own = rate / target.hosts
        yield f"  that is {own:,.0f} images/s and {cores_needed(own, cost):,.0f} cores for each of {target.hosts} hosts"
    slice_rate = target.cores / cost
    yield (
        f"  {_count(cores, 'core')} of them deliver {cores / cost:,.0f} images/s, the slice's {target.cores} vCPUs "
        f"about {slice_rate:,.0f} if they are as fast"
    )
    starving = [part for part in hungry if part.images / part.seconds > slice_rate]
    if not starving:
        yield "  the hosts can feed that"
        return
    fed, free = total_seconds(parts, input_rate=slice_rate), total_seconds(parts)
    advice = ", so a smaller slice does as well" if main in starving else ""
    names = ", ".join(f'"{part.name}"' for part in starving)
    yield (
        f"  the hosts cannot feed {names} as fast: the whole recipe takes {_hours(fed)} at least, "
        f"{fed / 3600 * target.chips:.3g} chip-hours, at their rate; the chips wait {1 - free / fed:.0%} of it{advice}"
    )
