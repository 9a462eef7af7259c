"""Starts `trainer.preview` under its name for users: only the trainer knows recipes."""

import runpy

if __name__ == "__main__":
    runpy.run_module("trainer.preview", run_name="__main__", alter_sys=True)
