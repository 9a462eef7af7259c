"""Checks every shard of a dataset for damage.

    python -m pipeline.verify DATA [--deep]

File sizes and sha256 against the manifest, every record's checksums, features, label and size, and a full decode of
every image with the decoder that training uses. --deep also looks at every image as the builder does today: for damage
that decoders pass over, grey or shifted lower halves above all, in datasets built by older versions. Prints one line
for each problem; exit code 65 if there are any.
"""

from __future__ import annotations

from absl import flags
from tqdm import tqdm

from pipeline.command import ExitCode, print_next, run_command
from pipeline.format.manifest import open_dataset
from pipeline.format.records import Record
from pipeline.format.rows import dataset_root
from pipeline.format.verify import problems
from pipeline.images.look import look
from pipeline.images.policy import HARD_MAX_PIXELS, PixelPolicy, Reject
from pipeline.progress import counting

flags.DEFINE_string("data", None, "Dataset root, or one version directory.")
_DEEP = flags.DEFINE_boolean("deep", False, "Also find damage that decoders pass over, such as grey lower halves.")

# Sizes are the builder's choice; only damage is looked for.
_ANY_SIZE = PixelPolicy(max_pixels=HARD_MAX_PIXELS, max_bytes=1 << 31, min_side=1)


def why_damaged(record: Record) -> str:
    """Looks at a record's image as the builder does; returns why that would refuse it, or an empty string."""
    seen = look(record.image, _ANY_SIZE)
    return f"its image is {seen.code.value}: {seen.detail}" if isinstance(seen, Reject) else ""


def main(arguments: list[str]) -> int:
    del arguments
    data, deep = open_dataset(flags.FLAGS.data), _DEEP.value
    from pipeline.decode import why_unusable  # takes seconds: TensorFlow

    def check(record: Record) -> str:
        return why_unusable(record) or (why_damaged(record) if deep else "")

    found = 0
    for split, shards in data.manifest.splits.items():
        with counting(check, split, total=data.manifest.num_examples(split)) as counted:
            for problem in problems(data, split, counted):
                found += 1
                tqdm.write(str(problem))
        print(f"{split}: {len(shards)} shards, {data.manifest.num_examples(split)} records checked")
    print(f"{found} problems" if found else "all good")
    if found:
        words = ["PHOTOS", f"--output={dataset_root(flags.FLAGS.data)}", "--repair"]
        print_next("build it anew, with the flags as before:", "python -m beam_jobs.build_tfrecords", *words)
    else:
        print_next("is the data all right?", "python -m trainer.check", flags.FLAGS.data)
    return ExitCode.DATA if found else ExitCode.DONE


if __name__ == "__main__":
    run_command(main, argument="data", needs=("data",), is_native=True)
