"""Does from Python what the commands do, then trains a model of one's own on images that are no files.

    python examples/from_python.py PHOTOS WORK

PHOTOS has a folder for each class. What WORK holds already is not done twice.
"""

import pathlib
import sys

import numpy as np
from PIL import Image

from trainer.api import build_dataset, check, load_model, train

photos, work = map(pathlib.Path, sys.argv[1:])

# Photos, as `--source=folder` takes them; any flag of the command is an argument.
data = build_dataset(photos, work / "data", max_side=512)
print(data.counts)

found = check(data)
print(found.verdict)
for issue in found.issues[:3]:
    print(f"{issue['source']} is labelled {issue['label']}; {issue['suggested']}?")

run = train(data, work / "run", recipe="quick", settings={"phases.1.duration": "2ep"})
print(run.metrics["test"]["accuracy"], run.report)

for answer in run.model().predict(photos)[:3]:
    print(answer.name, answer.label, f"{answer.probability:.3f}")

# The same as arrays (a tf.data set of pairs would do as well), with a backbone and an augmentation of one's own, named
# by their module and function.
files = sorted(path for path in photos.glob("*/*") if path.is_file())
pixels = np.stack([np.asarray(Image.open(file).convert("RGB").resize((64, 64))) for file in files])
small = train(
    (pixels, [file.parent.name for file in files]),
    work / "small",
    recipe="cifar10_cnn",
    backbone="examples.own_code:small_cnn",
    settings={"augment.policy": "examples.own_code:lights_out", "image_size": 64, "phases.0.duration": "3ep"},
)
print(load_model(small.path).predict(pixels[0])[0])
