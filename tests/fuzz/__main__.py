"""Fuzzes what comes in from the world: `make fuzz SECONDS=600 TARGET=image`, or `python -m tests.fuzz --help`.

atheris (libFuzzer) tries inputs in a process for each target, and goes on from those that reach lines that no other one
did; half of them it changes itself, half `mutation` does, which knows the formats. A finding is an exception that
`targets` does not foresee, an input that takes more than `--timeout` seconds or 256 MiB, or a crash. Each is kept in
`build/fuzz/findings/`, the shortest of its place in the code; new ones end with exit code 1, and `--replay FILE` shows
one again.
What was worth keeping of a run, `build/fuzz/corpus/`, is where the next one begins.

When a finding is mended, its input, made as small as it goes, belongs into `tests/fuzz/corpus/TARGET/`: the tests try
that, and so many mutations that a fixed seed makes, without atheris.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import logging
import mmap
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from types import ModuleType

from pipeline.images.heap import limited_memory

ROOT = pathlib.Path(__file__).resolve().parents[2]
REGRESSIONS = pathlib.Path(__file__).parent / "corpus"
MEMORY = 256 << 20  # bytes of address space for an input, beyond what the process has
_RSS_MIB = 4096  # of a process: what the fuzzer remembers, and TensorFlow
_LEAST_SECONDS = 2
_INSTRUMENTED = ["pipeline", "beam_jobs", "PIL", "pillow_heif", "protego", "tarfile"]
_VERSIONS = ("atheris", "pillow", "pillow-heif", "simplejpeg", "pyarrow", "protego", "msgpack", "keras")
_PLACES = 3  # frames that tell findings apart


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="of all targets together, their start not counted")
    parser.add_argument("--target", default="", help="names of targets, with commas; all of them by default")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--timeout", type=int, default=20, help="seconds that an input may take")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "build" / "fuzz", help="for findings and corpus")
    parser.add_argument("--replay", type=pathlib.Path, help="try this one file with the target, and nothing else")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _targets() -> ModuleType:
    from tests.fuzz import targets  # not above: in a child, atheris has to be there first

    return targets


def _place(error: Exception) -> str:
    """Names the place in the code that an error comes from."""
    frames = traceback.extract_tb(error.__traceback__)[-_PLACES:]
    place = "|".join([type(error).__name__, *(f"{frame.filename}:{frame.lineno}" for frame in frames)])
    return hashlib.sha256(place.encode()).hexdigest()[:12]


def _keep(error: Exception, data: bytes, file: pathlib.Path) -> None:
    """Keeps the shortest input, and what it led to."""
    if not file.exists() or file.stat().st_size > len(data):
        file.write_bytes(data)
        file.with_suffix(".txt").write_text("".join(traceback.format_exception(error)), "utf-8", "backslashreplace")


def _regressions(name: str, *, without: frozenset[str]) -> list[pathlib.Path]:
    return [file for file in sorted(REGRESSIONS.glob(f"{name}/*")) if f"{name}/{file.name}" not in without]


def _failure(check: Callable[[bytes], None], data: bytes) -> Exception | None:
    """Returns what a target does not foresee; None where all is well."""
    try:
        with limited_memory(MEMORY):
            check(data)
    except Exception as error:
        return error
    return None


def _fuzz(name: str, options: argparse.Namespace) -> None:
    """Fuzzes one target, in a process of its own; does not return."""
    import atheris

    with atheris.instrument_imports(include=_INSTRUMENTED):
        targets = _targets()
    target = targets.TARGETS[name]
    from tests.fuzz.mutation import mutate

    logging.disable()
    target.start()
    seeds = target.seeds()
    findings, corpus = options.work / "findings", options.work / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    for data in (*seeds, *(file.read_bytes() for file in _regressions(name, without=targets.ENDS_THE_PROCESS))):
        (corpus / hashlib.sha1(data).hexdigest()).write_bytes(data)
    with open(_counter(options.work, name), "r+b") as file:
        executed = mmap.mmap(file.fileno(), 8)
    known = {
        _place(error)
        for file in _regressions(name, without=targets.ENDS_THE_PROCESS)
        if f"{name}/{file.name}" in targets.KNOWN_FAULTS and (error := _failure(target.check, file.read_bytes()))
    }

    def check(data: bytes) -> None:
        executed[:] = struct.pack("<Q", struct.unpack("<Q", executed)[0] + 1)
        error = _failure(target.check, data)
        if error and (place := _place(error)) not in known:
            _keep(error, data, findings / f"{name}-{place}")

    def change(data: bytes, max_bytes: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.5:
            return atheris.Mutate(data, max_bytes)
        return mutate(data, rng, target.shape(data), seeds, max_bytes=max_bytes)

    flags = {
        "max_total_time": int(options.seconds),
        "seed": options.seed,
        "timeout": options.timeout,
        "report_slow_units": options.timeout,
        "rss_limit_mb": _RSS_MIB,
        "max_len": target.max_bytes,
        "artifact_prefix": f"{findings}/{name}-",
    }
    arguments = [sys.argv[0], *(f"-{flag}={value}" for flag, value in flags.items()), str(corpus)]
    atheris.Setup(arguments, check, custom_mutator=change)
    atheris.Fuzz()


def _counter(work: pathlib.Path, name: str) -> pathlib.Path:
    return work / f"{name}.executed"


def _run(name: str, seconds: float, options: argparse.Namespace) -> int:
    """Fuzzes one target, in as many processes as crash; returns how many inputs were tried."""
    counter = _counter(options.work, name)
    counter.write_bytes(bytes(8))
    left, seed = seconds, options.seed
    while left >= _LEAST_SECONDS:
        command = [sys.executable, "-m", "tests.fuzz", "--child", f"--target={name}", f"--work={options.work}"]
        command += [f"--seconds={left:.0f}", f"--seed={seed}", f"--timeout={options.timeout}"]
        with open(options.work / f"{name}.log", "ab") as log, tempfile.TemporaryDirectory() as folder:
            begin = time.monotonic()
            environment = {**os.environ, "TMPDIR": folder, "TF_CPP_MIN_LOG_LEVEL": "3"}
            done = subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log, check=False)
        if done.returncode == 0:
            break
        left -= time.monotonic() - begin
        seed += 1
    executed: int = struct.unpack("<Q", counter.read_bytes())[0]
    return executed


def _found(findings: pathlib.Path, name: str, *, crashes: bool) -> set[pathlib.Path]:
    """Lists the findings of a target; its crashes, too, where they are some."""
    files = {file for file in findings.glob(f"{name}-*") if file.suffix != ".txt"}
    return files if crashes else files - set(findings.glob(f"{name}-crash-*"))


def main() -> int:
    options = _arguments()
    options.work = options.work.resolve()
    findings = options.work / "findings"
    findings.mkdir(parents=True, exist_ok=True)
    if options.child:
        _fuzz(options.target, options)
    targets = _targets().TARGETS
    names = [name for name in options.target.split(",") if name] or list(targets)
    if unknown := set(names) - set(targets):
        print(f"no target {sorted(unknown)[0]}; there are {', '.join(targets)}", file=sys.stderr)
        return 64
    if options.replay:
        targets[names[0]].start()
        targets[names[0]].check(options.replay.read_bytes())
        return 0
    print(f"Python {sys.version.split()[0]}, ", end="")
    print(", ".join(f"{package} {importlib.metadata.version(package)}" for package in _VERSIONS), flush=True)
    total, any_new = sum(targets[name].weight for name in names), False
    for name in names:
        seconds = max(_LEAST_SECONDS, options.seconds * targets[name].weight / total)
        before = _found(findings, name, crashes=not targets[name].crashes)
        executed = _run(name, seconds, options)
        print(f"{name}: {executed} inputs in {seconds:.0f} s", flush=True)
        for file in sorted(_found(findings, name, crashes=not targets[name].crashes) - before):
            print(f"finding: python -m tests.fuzz --target={name} --replay={file}", flush=True)
            any_new = True
    return 1 if any_new else 0


if __name__ == "__main__":
    sys.exit(main())
