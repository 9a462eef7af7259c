"""Checks every shard of a dataset: python -m pipeline.verify DATA

File sizes and sha256 against the manifest, every record's checksums, features, label and size, and a full decode of
every image with the decoder that training uses. Prints one line for each problem; exit code 65 if there are any.
"""

from __future__ import annotations

from pipeline.command import ExitCode, UsageError, run_command
from pipeline.format.manifest import open_dataset
from pipeline.format.verify import problems


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        raise UsageError("usage: python -m pipeline.verify DATA")
    data = open_dataset(arguments[0])
    from pipeline.decode import why_unusable  # takes seconds: TensorFlow

    found = 0
    for split, shards in data.manifest.splits.items():
        for problem in problems(data, split, why_unusable):
            found += 1
            print(problem)
        print(f"{split}: {len(shards)} shards, {data.manifest.num_examples(split)} records checked")
    print(f"{found} problems" if found else "all good")
    return ExitCode.DATA if found else ExitCode.DONE


if __name__ == "__main__":
    run_command(main, accepts_arguments=True)
