from tests import two_cpus  # noqa: F401  (before any test uses a device)
