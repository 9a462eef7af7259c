import pytest

from tests.retrain.world import World


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)
