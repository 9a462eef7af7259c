"""Runs the TPU compiler in a process of its own, and keeps what it said. Free of TensorFlow."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import subprocess
import tempfile
from collections.abc import Mapping
from typing import Any

from pipeline.command import CommandError, UsageError
from trainer.devices.tpus import GIB, Slice
from trainer.preflight import hlo
from trainer.preflight.cache import Cache
from trainer.preflight.fingerprint import digest_of

INSTALL = "pip install '.[preflight]'"
_HERE = pathlib.Path(__file__).resolve().parent
_WORKER = _HERE / "worker.py"
_COMPILE_SECONDS = 3600
_VERSIONS = (
    "import importlib.metadata as m, json; print(json.dumps({n: m.version(n) for n in ('jax', 'jaxlib', 'libtpu')}))"
)
_OUT_OF_MEMORY = re.compile(r"([\d.]+)([KMGT]?)\) exceeds available (?:HBM|memory) \(([\d.]+)([KMGT]?)")
# Status codes (https://abseil.io/docs/cpp/guides/status-codes) with which libtpu refuses a program.
_JUDGEMENTS = ("RESOURCE_EXHAUSTED", "UNIMPLEMENTED", "INTERNAL", "INVALID_ARGUMENT")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """Holds what the compiler says about one program on one chip.

    Attributes:
      batch: images a step.
      error: why it did not compile, or an empty string. What follows is 0 then.
      needed: bytes of memory the program takes; of one that does not fit, what the compiler says that it would.
      limit: bytes there are, where the compiler states it, else 0.
      arguments: bytes of variables and batch.
      temporaries: bytes of what lives only within the step.
      flops: floating-point operations of a step, all of them, as the compiler counts.
      bytes_accessed: by its instructions, wherever the bytes lie, as the compiler counts.
      traffic: bytes between chip and HBM (`hlo.memory_traffic`).
      product_flops: convolutions and matrix products alone.
      plain_bytes: of the tensors in HBM without filling.
      padded_bytes: with it.
      worst_padding: (wasted bytes, what, where from).
      on_host: operations that the host must do.
      collectives: what the chips exchange.
    """

    batch: int
    error: str = ""
    needed: float = 0.0
    limit: float = 0.0
    arguments: float = 0.0
    temporaries: float = 0.0
    flops: float = 0.0
    bytes_accessed: float = 0.0
    traffic: float = 0.0
    product_flops: float = 0.0
    plain_bytes: float = 0.0
    padded_bytes: float = 0.0
    worst_padding: tuple[tuple[int, str, str], ...] = ()
    on_host: tuple[str, ...] = ()
    collectives: tuple[hlo.Collective, ...] = ()

    @property
    def fits(self) -> bool:
        return not self.error

    @property
    def out_of_memory(self) -> bool:
        return "RESOURCE_EXHAUSTED" in self.error

    @property
    def final(self) -> bool:
        """Says whether another try would end the same way: the compiler has judged the program.

        Other failures, such as a file that cannot be written or memory that this machine lacks, may pass.
        """
        return self.fits or any(f"{status}:" in self.error for status in _JUDGEMENTS)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Compiled:
        """Inverts `dataclasses.asdict` after a passage through JSON."""
        worst = tuple((int(waste), str(what), str(where)) for waste, what, where in value["worst_padding"])
        exchanged = tuple(hlo.Collective(**collective) for collective in value["collectives"])
        changed = {"worst_padding": worst, "on_host": tuple(value["on_host"]), "collectives": exchanged}
        return cls(**{**value, **changed})


class Compiler:
    """Reaches libtpu through the jax of some Python interpreter.

    Attributes:
      versions: of jax, jaxlib and libtpu.
    """

    def __init__(self, python: str, target: Slice, cache: Cache) -> None:
        """Asks the interpreter for its versions.

        Args:
          python: an interpreter that has jax and libtpu.
          target: to compile for. Each of its chips runs the same program.
          cache: of results.

        Raises:
          UsageError: no such interpreter, or it lacks jax or libtpu; the message has the command that installs them.
        """
        self._python, self._target, self._cache = python, target, cache
        self.versions = find_versions(python)

    def compile(self, program: bytes, *, text_digest: str, batch: int) -> Compiled:
        """Compiles a serialized HLO module, or returns what was found when it was compiled before.

        Raises:
          CommandError: the compiler crashed, or does not come to an end.
        """
        key = {
            "program": text_digest,
            "topology": self._target.name,
            "versions": self.versions,
            "analysis": analysis(),
        }
        if stored := self._cache.get(key):
            return Compiled.from_dict(stored)
        with tempfile.TemporaryDirectory(prefix="preflight-") as directory:
            result = self._run(program, pathlib.Path(directory))
            compiled = summarize(result, pathlib.Path(directory), batch=batch)
        if compiled.final:
            self._cache.put(key, dataclasses.asdict(compiled))
        return compiled

    def _run(self, program: bytes, directory: pathlib.Path) -> dict[str, Any]:
        (directory / "module.pb").write_bytes(program)
        chip_config = self._target.generation.chip_config
        command = [self._python, str(_WORKER), "module.pb", self._target.name, chip_config, "."]
        try:
            done = subprocess.run(
                command, cwd=directory, capture_output=True, text=True, errors="replace", timeout=_COMPILE_SECONDS,
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as late:
            raise CommandError(
                f"libtpu did not finish compiling within {_COMPILE_SECONDS} s; try a smaller model"
            ) from late
        result = directory / "result.json"
        if not result.exists():
            words = (done.stderr.strip().splitlines() or ["no message"])[-1][:300]
            raise CommandError(f"libtpu {self.versions['libtpu']} crashed (exit code {done.returncode}): {words}")
        return json.loads(result.read_text())


def analysis() -> str:
    """Returns the digest of the code that reads what the compiler says: what older code made of it is not found."""
    return digest_of([_HERE / "hlo.py", _WORKER], root=_HERE, packages=())


def find_versions(python: str) -> dict[str, str]:
    """Returns the versions of jax, jaxlib and libtpu of an interpreter; UsageError if one is missing."""
    try:
        done = subprocess.run([python, "-c", _VERSIONS], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"--jax_python={python}: cannot be run ({error}); name a Python interpreter") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        missing = last.rsplit(" ", 1)[-1] if "PackageNotFoundError" in last else "jax or libtpu"
        raise UsageError(
            f"{missing} is not installed in {python}: {INSTALL}, or name an interpreter that has it: "
            "python -m venv PF && PF/bin/pip install jax libtpu, then --jax_python=PF/bin/python"
        )
    return json.loads(done.stdout)


def summarize(result: Mapping[str, Any], directory: pathlib.Path, *, batch: int) -> Compiled:
    """Turns what the worker wrote into what is reported."""
    if error := result.get("error"):
        match = _OUT_OF_MEMORY.search(error)
        if not match:
            return Compiled(batch=batch, error=error)
        needed, limit = (float(match[i]) * _UNITS[match[i + 1]] for i in (1, 3))
        return Compiled(batch=batch, error=error, needed=needed, limit=limit)
    text = (directory / "optimized.txt").read_text()
    program = hlo.entry(text)
    memory, cost = result["memory"], result["cost"]
    padding = hlo.padding(program, batch=batch)
    return Compiled(
        batch=batch,
        # Variables are updated in place: their output is their argument.
        needed=sum(memory.values()) - 2 * memory["alias"],
        arguments=memory["argument"],
        temporaries=memory["temp"],
        flops=cost["flops"],
        bytes_accessed=cost["bytes accessed"],
        traffic=hlo.memory_traffic(text),
        product_flops=hlo.product_flops(text),
        plain_bytes=padding.bytes,
        padded_bytes=padding.padded_bytes,
        worst_padding=padding.worst,
        on_host=tuple(hlo.host_operations(text)),
        collectives=tuple(hlo.collectives(text)),
    )
