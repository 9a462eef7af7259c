"""Tests what is made of a compiler that fails or is not there."""

import sys

import pytest

from pipeline.command import UsageError
from trainer.devices.tpus import GIB
from trainer.preflight import compiling

OOM = (
    "JaxRuntimeError: RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
    "required for HLO temporaries (81.71G) exceeds available HBM (15.75G). HLO module: a_inference_f_1001__.36.\nSee"
)


def test_a_program_that_does_not_fit_says_by_how_much(tmp_path):
    compiled = compiling.summarize({"error": OOM}, tmp_path, batch=8)
    assert (compiled.fits, compiled.out_of_memory) == (False, True)
    assert (compiled.needed / GIB, compiled.limit / GIB) == (pytest.approx(81.71), 15.75)


def test_a_program_that_does_not_compile_is_no_matter_of_memory(tmp_path):
    compiled = compiling.summarize(
        {"error": "JaxRuntimeError: UNIMPLEMENTED: no such custom call: X"}, tmp_path, batch=8
    )
    assert (compiled.fits, compiled.out_of_memory) == (False, False)


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (OOM, True),
        ("JaxRuntimeError: UNIMPLEMENTED: no such custom call: X", True),
        ("JaxRuntimeError: INTERNAL: Mosaic failed to compile TPU kernel", True),
        ("JaxRuntimeError: UNAVAILABLE: connection to server lost", False),
        ("MemoryError: ", False),
        ("OSError: [Errno 28] No space left on device: 'optimized.txt'", False),
    ],
)
def test_what_the_compiler_refuses_is_not_compiled_again(tmp_path, error, final):
    assert compiling.summarize({"error": error}, tmp_path, batch=8).final == final


def test_an_interpreter_that_cannot_be_run_is_refused():
    with pytest.raises(UsageError, match="--jax_python=/nowhere/python: cannot be run"):
        compiling.find_versions("/nowhere/python")


def test_the_command_that_installs_what_is_missing_is_named(tmp_path):
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')  # without site-packages
    bare.chmod(0o755)
    with pytest.raises(UsageError, match="jax is not installed in") as caught:
        compiling.find_versions(str(bare))
    assert "pip install '.[preflight]'" in str(caught.value)
