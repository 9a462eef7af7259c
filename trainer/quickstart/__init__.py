"""Makes a model of a folder of photos by one command: `python -m trainer.quickstart PHOTOS`.

It starts the commands that one would type, one after the other, and has nothing of its own but their order: `steps`
starts them, `course` is their order, `outlook` and `countdown` say how long they will take, `choice` and `verdict`
which `model` is taken, `place` where everything lies, `memory` what is known from before; `talk`, `page` tell people.
"""


def script() -> None:
    """Runs the command under its other name, `photos-to-model` (setup.py)."""
    from runpy import run_module

    run_module(__name__, run_name="__main__", alter_sys=True)
