"""Tests what is known of TPUs: slices by their names, hosts, cores, sources."""

import pytest

from pipeline.command import UsageError
from trainer.devices.tpus import GENERATIONS, accelerator_type, known_slices, parse_topology

V5E = parse_topology("v5e:2x4")


@pytest.mark.parametrize(
    ("text", "name", "chips", "hosts"),
    [
        ("v5e:2x4", "v5e:2x4", 8, 1),
        ("v5litepod-8", "v5e:2x4", 8, 1),
        ("v5e-1", "v5e:1x1", 1, 1),
        ("v5e:16x16", "v5e:16x16", 256, 64),
        ("v4-8", "v4:2x2x1", 4, 1),  # v4 and v5p are counted in cores, two a chip
        ("v4:4x4x4", "v4:4x4x4", 64, 16),
        ("v5p-16", "v5p:2x2x2", 8, 2),
        ("v6e-8", "v6e:2x4", 8, 1),
    ],
)
def test_slices_are_written_as_shapes_or_as_clouds_accelerator_types(text, name, chips, hosts):
    found = parse_topology(text)
    assert (found.name, found.chips, found.hosts) == (name, chips, hosts)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("v5e:2x5", "v5e:2x4"),
        ("v5:2x4", 'Did you mean "v5'),
        ("v6e-9", "v6e:2x4"),
        ("v5litepod-9", 'Did you mean "v5litepod-'),
        ("", "v4, v5e, v5p, v6e"),
        ("tpu", "v4, v5e, v5p, v6e"),
    ],
)
def test_unknown_slices_are_refused_with_the_nearest_names(text, hint):
    with pytest.raises(UsageError, match=f"--topology={text}: no such") as caught:
        parse_topology(text)
    assert hint in str(caught.value)


def test_every_slice_of_the_table_is_found_by_its_name():
    for slice_ in known_slices():
        assert parse_topology(slice_.name) == slice_
        same_size = parse_topology(accelerator_type(slice_))
        assert same_size.chips == slice_.chips


@pytest.mark.parametrize(
    ("text", "chips_of_host", "of_host", "of_all"),
    [
        ("v5e:1x1", 1, 24, 24),
        ("v5e:2x4", 8, 224, 224),
        ("v5e:4x4", 4, 112, 448),
        ("v6e:2x4", 8, 180, 180),
        ("v6e:8x8", 4, 180, 16 * 180),
        ("v4:4x4x4", 4, 240, 16 * 240),
    ],
)
def test_cores_are_those_of_the_virtual_machines(text, chips_of_host, of_host, of_all):
    found = parse_topology(text)
    assert (found.chips_of_host, found.host_cores, found.cores) == (chips_of_host, of_host, of_all)


def test_every_generation_has_its_source():
    assert set(GENERATIONS) == {"v4", "v5e", "v5p", "v6e"}
    assert all(generation.source.startswith("https://") for generation in GENERATIONS.values())
