"""Does from Python what the commands do: builds datasets, checks them, trains on them, and asks models.

    from trainer.api import build_dataset, check, load_model, train

    data = build_dataset("photos", "data")
    check(data)
    run = train(data, "run")
    run.model().predict("photo.jpg")

What is wrong is raised as the commands' errors (`pipeline.command`): UsageError, DataError, TryAgainError. All can be
interrupted at any moment and called again; what is done is not done twice. TensorFlow is imported by what needs it.
"""

from trainer.api.building import Dataset, build_dataset
from trainer.api.checking import CheckResult, check
from trainer.api.model import Answer, Model, load_model
from trainer.api.training import Run, train

__all__ = ["Answer", "CheckResult", "Dataset", "Model", "Run", "build_dataset", "check", "load_model", "train"]
