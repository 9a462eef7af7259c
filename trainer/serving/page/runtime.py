"""Keeps what runs a model in a browser, LiteRT.js: fetched once from the npm registry, pinned, checked at every use."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import os
import pathlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping

from pipeline.command import DataError, TryAgainError, UsageError
from pipeline.format.storage import write_atomically

VERSION = "2.5.3"
PACKAGED = pathlib.Path(__file__).with_name("archives")  # what `make wheel` fills; not in the repository
_TIMEOUT = "60000"  # milliseconds, of one attempt; npm makes two


@dataclasses.dataclass(frozen=True, kw_only=True)
class Package:
    """Names a package of the npm registry.

    Attributes:
      name: as npm knows it.
      file: npm's name for its archive.
      sha512: of the archive, base64, as package-lock.json has it.
    """

    name: str
    file: str
    sha512: str


LITERT = Package(
    name="@litertjs/core",
    file=f"litertjs-core-{VERSION}.tgz",
    sha512="PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
)
LOADER = Package(
    name="@litertjs/wasm-utils",
    file=f"litertjs-wasm-utils-{VERSION}.tgz",
    sha512="4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ==",
)
# Of LiteRT's builds the one that asks least of a browser; that of relaxed SIMD is not surely faster: 5 to 9 ms, 6 to 8.
_BUILD = "litert_wasm_compat_internal"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runtime:
    """Holds the files that a page takes.

    Attributes:
      litert: the module that users of LiteRT.js import.
      loader: the module that it imports itself, as "@litertjs/wasm-utils".
      glue: the script that starts `wasm`.
      wasm: LiteRT itself.
    """

    litert: bytes
    loader: bytes
    glue: bytes
    wasm: bytes


def default_folder() -> pathlib.Path:
    """Names the folder of the archives: in the package, if they were put into it, else under ~/.cache."""
    if PACKAGED.is_dir():
        return PACKAGED
    root = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    return root / "tpu-retraining" / "page-runtime" / VERSION


def fetch_runtime(folder: pathlib.Path) -> list[str]:
    """Fetches by npm, as it is configured here, what is not in the folder yet; returns the names of what it fetched.

    Raises:
      UsageError: npm is not installed, or does not know the package.
      TryAgainError: the registry cannot be reached.
      DataError: an archive is not the one that is pinned.
    """
    fetched = []
    for package in (LITERT, LOADER):
        if _kept(folder, package) is None:
            content = _packed(package, folder)
            check(package, content)
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / package.file, content, shared=True)
            fetched.append(f"{package.name}@{VERSION}")
    return fetched


def read_runtime(folder: pathlib.Path) -> Runtime | None:
    """Reads what `fetch_runtime` has kept; None where it has not, or where it is damaged."""
    litert, loader = (_kept(folder, package) for package in (LITERT, LOADER))
    if litert is None or loader is None:
        return None
    files, more = _files(litert), _files(loader)
    return Runtime(
        litert=files["package/dist/index.js"],
        loader=more["package/dist/index.js"],
        glue=files[f"package/wasm/{_BUILD}.js"],
        wasm=files[f"package/wasm/{_BUILD}.wasm"],
    )


def check(package: Package, content: bytes) -> None:
    """Raises DataError where an archive is not the one that is pinned."""
    found = base64.b64encode(hashlib.sha512(content).digest()).decode()
    if found != package.sha512:
        raise DataError(
            f"{package.name}@{VERSION}: its archive has sha512 {found[:16]}…, not {package.sha512[:16]}… as is "
            "pinned; nothing is kept of it (is another registry set in ~/.npmrc?)"
        )


def _kept(folder: pathlib.Path, package: Package) -> bytes | None:
    try:
        content = (folder / package.file).read_bytes()
        check(package, content)
    except (OSError, DataError):
        return None
    return content


def _files(archive: bytes) -> Mapping[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        found = ((member.name, opened.extractfile(member)) for member in opened)
        return {name: file.read() for name, file in found if file is not None}  # of folders there is none


def _packed(package: Package, folder: pathlib.Path) -> bytes:
    npm = shutil.which("npm")
    if npm is None:
        raise UsageError(
            f"npm is not installed, which fetches {package.name}@{VERSION}; install it (it comes with Node.js), or "
            f"run `npm pack {package.name}@{VERSION}` elsewhere and put {package.file} into {folder}"
        )
    with tempfile.TemporaryDirectory() as into:
        command = [npm, "pack", f"{package.name}@{VERSION}", f"--pack-destination={into}", "--ignore-scripts"]
        command += ["--fetch-retries=1", "--fetch-retry-mintimeout=1000", f"--fetch-timeout={_TIMEOUT}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=into)
        if done.returncode == 0:
            return (pathlib.Path(into) / package.file).read_bytes()
    said = [line for line in done.stderr.splitlines() if line.startswith("npm error")]
    first = " ".join(line.removeprefix("npm error").strip() for line in said[:3]) or f"exit code {done.returncode}"
    if "EINTEGRITY" in first:
        raise DataError(f"{package.name}@{VERSION}: its archive is not what the registry says; {first}"[:500])
    if "E404" in first or "ETARGET" in first:
        raise UsageError(f"{package.name}@{VERSION}: the npm registry does not have it; {first}"[:500])
    raise TryAgainError(f"{package.name}@{VERSION} cannot be fetched: {first}"[:500])
