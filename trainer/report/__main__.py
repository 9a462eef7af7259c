r"""Writes RUN/report.html and RUN/model_card.md from the files of a finished run. Free of TensorFlow.

    python -m trainer.report RUN

trainer.main has done it already; this writes them again.
"""

from __future__ import annotations

from absl import flags

from pipeline.command import print_next, run_command
from pipeline.format import storage
from trainer.report.files import open_data_of

flags.DEFINE_string("run", None, "A finished run, as trainer.main makes it.")
flags.DEFINE_string("data", None, "Where the dataset is now, if it was moved since the training.")


def main(arguments: list[str]) -> None:
    del arguments
    run = flags.FLAGS.run
    data = open_data_of(run, flags.FLAGS.data)
    from trainer.report.page import write_report  # takes a second: matplotlib

    write_report(run, data)
    print(f"wrote {storage.join(run, 'report.html')} and {storage.join(run, 'model_card.md')}")
    print_next("how good is it?", "python -m trainer.evaluate", run)


if __name__ == "__main__":
    run_command(main, argument="run", needs=("run",))
