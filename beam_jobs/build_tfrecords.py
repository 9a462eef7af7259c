"""Builds a dataset of sharded TFRecords from raw images.

    python -m beam_jobs.build_tfrecords PHOTOS --output=DATA
    python -m beam_jobs.build_tfrecords --source=csv --input=TABLE.csv --output=DATA

One folder a class (PHOTOS/roses/1.jpg) is what --source=folder takes.
Flags that are not listed here go to Apache Beam (--direct_num_workers=8, --runner=…).
"""

from __future__ import annotations

import difflib
import importlib.util
import logging
import os
import pathlib
import re
import sys
import tempfile

# Before NumPy is loaded, here and in the processes that inherit it: its linear algebra would start a thread a core in
# every worker, which then wait for each other. The near-duplicate search took four times as long that way.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from absl import flags

from beam_jobs import build
from beam_jobs.config import BuildConfig
from beam_jobs.corrections import read_corrections
from beam_jobs.download.addresses import ANY_NETWORK
from beam_jobs.download.headers import parse_header
from beam_jobs.download.policy import PRODUCT, DownloadPolicy, FetchPolicy, default_user_agent
from beam_jobs.repair import take_out_damaged
from beam_jobs.settings import WORK_DIR
from beam_jobs.sources import PIXEL_SOURCES, SOURCES, TABLES, open_source
from beam_jobs.splits import SplitFractions, split_order
from beam_jobs.summary import left_out_lines
from beam_jobs.version.decided import remarks
from pipeline.command import UsageError, print_next, run_command, unknown_flag
from pipeline.format.kinds import DATASET
from pipeline.format.places import check_folder, check_nothing_is_lost
from pipeline.format.storage import is_remote
from pipeline.images import heap
from pipeline.images.guarded import ImageBudget
from pipeline.images.policy import PixelPolicy

_INPUT = flags.DEFINE_string(
    "input", None, "The folder, file or archive with the images; a folder may be gs:// or s3://."
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "The dataset root, local, gs:// or s3://; a new version appears in OUTPUT/versions."
)
_SOURCE = flags.DEFINE_string("source", "folder", f"Where the images come from: {', '.join(SOURCES)}.")
_NAME = flags.DEFINE_string("name", None, "Name of the dataset (default: from the input's name).")
_SPLITS = flags.DEFINE_string(
    "splits", "train:0.8,validation:0.1,test:0.1", "Splits and their shares, where the source has no official ones."
)
_FOLDERS = flags.DEFINE_enum(
    "folders",
    "auto",
    ["auto", "classes"],
    "auto: sub-folders with names like train and test are splits. classes: all sub-folders are classes.",
)
_SMALL_CLASSES = flags.DEFINE_enum(
    "small_classes",
    "refuse",
    ["refuse", "train", "drop"],
    "Classes with fewer distinct images than splits: refuse the build, put them into train, or leave them out.",
)
_SPLIT_BY = flags.DEFINE_enum(
    "split_by", "rank", ["rank", "hash"], "rank: exact shares. hash: no image ever changes its split."
)
_NEAR = flags.DEFINE_enum(
    "near_duplicates",
    "group",
    ["keep", "drop", "group"],
    "Images that look alike: group keeps them in one split, drop keeps the largest, keep does not look for them.",
)
_VALIDATION = flags.DEFINE_float(
    "validation_fraction",
    0.1,
    "Share of each class's official training images to hold out, where the source has no validation; 0: none.",
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the choice of splits.")
_MAX_SIDE = flags.DEFINE_integer("max_side", None, "Shrink images to this longest side in pixels.", lower_bound=16)
_MIN_SIDE = flags.DEFINE_integer("min_side", PixelPolicy.min_side, "Refuse images with a shorter side.", lower_bound=1)
_SUBSAMPLING = flags.DEFINE_enum("subsampling", "4:2:0", ["4:2:0", "4:4:4"], "Chroma of the images encoded anew.")
_ANIMATED = flags.DEFINE_enum("animated", "first_frame", ["first_frame", "refuse"], "What becomes of animated images.")
_IMAGE_SECONDS = flags.DEFINE_float("image_timeout", ImageBudget.seconds, "Refuse images that take longer to decode.")
_IMAGE_MEMORY = flags.DEFINE_integer(
    "image_memory", ImageBudget.memory >> 20, "Refuse images that take more MiB of memory to decode."
)
_STRIP = flags.DEFINE_bool(
    "strip_metadata", False, "Take EXIF (GPS positions among it), XMP, IPTC and comments out of JPEGs that are kept."
)
_MAX_REJECTS = flags.DEFINE_float("max_reject_fraction", 0.1, "Stop with exit code 65 if more images are refused.")
_KEEP = flags.DEFINE_integer("keep_versions", None, "Remove older versions beyond this many.", lower_bound=1)
_DOWNLOAD_DIR = flags.DEFINE_string("download_dir", None, "The store of downloads (default: inside the output).")
_DOWNLOAD_SECONDS = flags.DEFINE_float("download_timeout", 120, "Seconds for one URL, all its attempts together.")
_PER_HOST = flags.DEFINE_integer("downloads_per_host", 4, "Downloads at a time from one host.", lower_bound=1)
_RETRY_FAILED = flags.DEFINE_bool("retry_failed", False, "Download again what failed in an earlier run.")
_ALLOW_PRIVATE = flags.DEFINE_bool(
    "allow_private_addresses", False, "Let URLs lead to private, loopback, link-local and metadata addresses."
)
_IGNORE_ROBOTS = flags.DEFINE_bool("ignore_robots", False, "Ignore robots.txt and X-Robots-Tag: noai, noimageai.")
_USER_AGENT = flags.DEFINE_string(
    "user_agent", None, f"Name/version (contact) that downloads introduce us with (default: {PRODUCT}/VERSION (…))."
)
_HEADERS = flags.DEFINE_multi_string(
    "header",
    [],
    "Header to send to the host of every listed URL, as 'Referer: https://site.example/'; may be repeated. After a "
    "redirect to another host only Referer, Accept and Accept-Language are sent; for robots.txt none is.",
)
_TFDS_DIR = flags.DEFINE_string("tfds_data_dir", None, "Where TFDS keeps prepared sets (default: TFDS's own).")
_COLUMNS = {
    "uri": flags.DEFINE_string("uri_column", None, "Of a table: the column of the images' paths or URLs."),
    "label": flags.DEFINE_string("label_column", None, "Of a table: the column of the classes."),
    "split": flags.DEFINE_string("split_column", None, "Of a table: the column of the splits; empty for none."),
}
_ENCODING = flags.DEFINE_string("encoding", None, "Of a table's text, like windows-1252 (default: utf-8, or its mark).")
_EXCLUDE = flags.DEFINE_string(
    "exclude",
    None,
    "A CSV file of images to leave out: a column id (its copies, too) or uri. Takes label_issues.csv of trainer.check.",
)
_RELABEL = flags.DEFINE_string(
    "relabel",
    None,
    "A CSV file of images' right classes: the columns id or uri, and label. Takes label_issues.csv of trainer.check, "
    "in which the column suggested counts.",
)
_SHARE_DISK = flags.DEFINE_bool(
    "workers_share_disk", False, "With --runner: its workers see this machine's paths (NFS); else these are refused."
)
_REPAIR = flags.DEFINE_bool(
    "repair", False, "Read all of the newest version first; if anything in it is damaged, build it anew."
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the plan and an estimate; write nothing.")

_NOT_IN_A_NAME = re.compile(r"[^a-z0-9]+")
_DATASET_NAME = re.compile(r"^[a-z][a-z0-9_]*$")


def _refuse_mistyped(unknown: list[str]) -> None:
    """Refuses what is nearly a flag of ours and none of Beam's, which takes seconds to import and would say so, too."""
    (folder,) = importlib.util.find_spec("apache_beam").submodule_search_locations  # type: ignore[union-attr,misc]
    of_beam = pathlib.Path(folder, "options", "pipeline_options.py").read_text(encoding="utf-8")
    for argument in unknown:
        name = argument.partition("=")[0]
        is_near = difflib.get_close_matches(name, [f"--{own}" for own in flags.FLAGS], n=1, cutoff=0.85)
        if is_near and f"'{name}'" not in of_beam:
            raise UsageError(unknown_flag(argument))


def _dataset_name(input_path: str) -> str:
    if _NAME.value is None:
        base = os.path.basename(os.path.abspath(input_path)).lower()
        if _SOURCE.value.partition(":")[0] == "tfds":  # NAME[/CONFIG][:VERSION], or a folder NAME/…/1.0.0
            base = re.split("[/:]", re.sub(r"/[\d.]+/*$", "", input_path))[-1 if os.path.isdir(input_path) else 0]
        name = _NOT_IN_A_NAME.sub("_", base.split(".")[0]).strip("_")
        return name if _DATASET_NAME.match(name) else f"images_{name}".strip("_")
    if not _DATASET_NAME.match(_NAME.value):
        raise UsageError(f"--name={_NAME.value}: use lower-case letters, digits and _, with a letter first")
    return _NAME.value


def _paths(unknown: list[str]) -> tuple[str, str]:
    """Checks --input and --output and returns both; one that is missing may be among the flags that are not known."""
    # A source may name its input itself: --source=tfds:mnist.
    input_path = _INPUT.value or _SOURCE.value.partition(":")[2]
    if not input_path or not _OUTPUT.value:
        if mistyped := [argument for argument in unknown if argument.startswith("--")]:
            raise UsageError(unknown_flag(mistyped[0]))
        raise UsageError(f"--{'output' if input_path else 'input'} is missing (--help lists the flags)")
    check_nothing_is_lost(_OUTPUT.value, flag="output", kind=DATASET)
    if not is_remote(_OUTPUT.value):
        check_folder(_OUTPUT.value, flag="output")
    if is_remote(input_path) or is_remote(_OUTPUT.value):
        return input_path, _OUTPUT.value
    source, output = os.path.realpath(input_path), os.path.realpath(_OUTPUT.value)
    if os.path.isdir(source) and os.path.commonpath([source, output]) == source:
        raise UsageError(
            f"--output={_OUTPUT.value} lies inside --input={_INPUT.value}; the next build would read it as input"
        )
    return input_path, _OUTPUT.value


def _pixel_policy() -> PixelPolicy:
    try:
        return PixelPolicy(
            max_side=_MAX_SIDE.value,
            min_side=_MIN_SIDE.value,
            animated=_ANIMATED.value,
            subsampling=_SUBSAMPLING.value,
            strip_metadata=_STRIP.value,
            lossless=_SOURCE.value.partition(":")[0] in PIXEL_SOURCES,
        )
    except ValueError as error:
        raise UsageError(f"image flags: {error}") from error


def _image_budget() -> ImageBudget:
    try:
        return ImageBudget(seconds=_IMAGE_SECONDS.value, memory=_IMAGE_MEMORY.value << 20)
    except ValueError as error:
        raise UsageError(f"--image_timeout, --image_memory: {error}") from error


def _download_policy() -> DownloadPolicy:
    try:
        fetch = FetchPolicy(
            user_agent=default_user_agent() if _USER_AGENT.value is None else _USER_AGENT.value,
            max_bytes=PixelPolicy.max_bytes,
            per_host=_PER_HOST.value,
            allowed_networks=ANY_NETWORK if _ALLOW_PRIVATE.value else (),
            obey_robots=not _IGNORE_ROBOTS.value,
            headers=tuple(map(parse_header, _HEADERS.value)),
        )
        return DownloadPolicy(fetch=fetch, total_seconds=_DOWNLOAD_SECONDS.value, retry_failed=_RETRY_FAILED.value)
    except ValueError as error:
        raise UsageError(f"download flags: {error}") from error


def _fraction(flag: flags.FlagHolder[float]) -> float:
    if not 0 <= flag.value <= 1:
        raise UsageError(f"--{flag.name}={flag.value:g}: must be from 0 to 1")
    return flag.value


def _table_options() -> dict[str, str]:
    """Returns what the user said of a table. Raises UsageError where the source is none."""
    columns = [(f"{name}_column", flag.value) for name, flag in _COLUMNS.items()]
    given = {name: value for name, value in (*columns, ("encoding", _ENCODING.value)) if value is not None}
    if given and _SOURCE.value not in TABLES:
        raise UsageError(f"--{next(iter(given))} is for tables: --source={', '.join(TABLES)}; not {_SOURCE.value}")
    return given


def _scratch(output: str) -> str:
    """Names a local folder for what a source unpacks: beside the dataset, or a temporary one beside a store."""
    if is_remote(output):
        return os.path.join(tempfile.gettempdir(), f"tpu-retraining-{os.getuid()}", "unpacked")
    return os.path.join(output, WORK_DIR, "unpacked")


def _summary(outcome: build.Outcome) -> str:
    if not outcome.built:
        return f"nothing to do: {outcome.total} images unchanged, {outcome.directory} is current"
    kept = sum(sum(labels.values()) for labels in outcome.examples.values())
    lines = [f"{outcome.total} images: {kept} kept, {outcome.total - kept} left out, in {outcome.seconds:.1f} s"]
    lines += [f"  left out  {count:8d}  {code}" for code, count in sorted(outcome.rejects.items())]
    for split in split_order(list(outcome.examples)):
        labels = outcome.examples[split]
        each = (
            f"{min(labels.values())} to {max(labels.values())}"
            if len(set(labels.values())) > 1
            else f"{max(labels.values())}"
        )
        lines.append(f"  {split:<10}{sum(labels.values()):8d}  images of {len(labels)} classes, {each} each")
    lines += [f"  {line}" for line in (*left_out_lines(outcome.left_out), *outcome.notes)]
    if outcome.pruned:
        lines.append(f"  removed old versions {', '.join(outcome.pruned)}")
    what = "published" if outcome.new_content else "same content as before, still"
    lines.append(f"{what} {outcome.directory}")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    heap.give_back()
    heap.collect_rarely()
    # Beam and its workers report missing optional packages and every step; their errors come as exceptions.
    logging.disable(logging.WARNING)
    input_path, output = _paths(arguments)
    template = None
    if arguments:
        # Before any work: a typo must not surface after an hour of listing.
        _refuse_mistyped(arguments)
        from beam_jobs import engine

        template = engine.template_of(engine.parse_options(arguments, own_flags=[*flags.FLAGS]))
    config = BuildConfig(
        source_name=_SOURCE.value,
        name=_dataset_name(input_path),
        fractions=SplitFractions.parse(_SPLITS.value),
        split_by=_SPLIT_BY.value,
        near_duplicates=_NEAR.value,
        validation_fraction=_fraction(_VALIDATION),
        seed=_SEED.value,
        policy=_pixel_policy(),
        max_reject_fraction=_fraction(_MAX_REJECTS),
        output=output,
        small_classes=_SMALL_CLASSES.value,
        splits_given=bool(_SPLITS.present),
        keep_versions=_KEEP.value,
        download=_download_policy(),
        workers_share_disk=_SHARE_DISK.value,
        budget=_image_budget(),
        corrections=read_corrections(_EXCLUDE.value, _RELABEL.value),
    )
    options = {
        "download_dir": _DOWNLOAD_DIR.value or os.path.join(output, WORK_DIR, "downloads"),
        "work_dir": _scratch(output),
        "tfds_data_dir": _TFDS_DIR.value or "",
        **_table_options(),
        "folders": _FOLDERS.value,
    }
    if _DRY_RUN.value:
        from beam_jobs.dry_run import describe

        with tempfile.TemporaryDirectory() as work:
            options |= {"work_dir": work, "dry_run": "yes"}
            source = open_source(_SOURCE.value, input_path=input_path, options=options)
            print(describe(source, config, workers=len(os.sched_getaffinity(0))))
        given = [word for word in sys.argv[1:] if word.lstrip("-") != _DRY_RUN.name]
        print_next("build it:", "python -m beam_jobs.build_tfrecords", *given)
    else:
        source = open_source(_SOURCE.value, input_path=input_path, options=options)
        if _REPAIR.value and (problem := take_out_damaged(output)):
            print(f"{problem}; it is built anew", file=sys.stderr)
        if template:
            build.translate(source, config, arguments)
            print(f"wrote the job to {template}; nothing was built")
        else:
            outcome = build.build(source, config, arguments)
            print(_summary(outcome))
            for line in remarks(outcome.directory, exclude=_EXCLUDE.value, relabel=_RELABEL.value):
                print(line, file=sys.stderr if line.startswith("warning") else sys.stdout)
            print_next("is the data all right?", "python -m trainer.check", output)


if __name__ == "__main__":
    run_command(main, keep_unknown_flags=True, argument="input")
