"""Offers the tests of downloads a server that keeps to a script."""

import pytest

from tests.beam_jobs.scripted_server import Scripted


@pytest.fixture
def scripted():
    servers = []

    def start(*scripts):
        servers.append(Scripted(*scripts))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
