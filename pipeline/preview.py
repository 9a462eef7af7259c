"""Starts `trainer.preview`, whose name for users this is: only the trainer's room knows recipes."""

import runpy

if __name__ == "__main__":
    runpy.run_module("trainer.preview", run_name="__main__", alter_sys=True)
