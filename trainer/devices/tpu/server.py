"""Serves a host's TPU chips to the process that drives the slice, for as long as that one is there.

A TensorFlow server of the same wheel runs on every host: beside the process that trains on the first one, in its place
on the others. (Cloud's images that start such servers themselves end with TensorFlow 2.18.)
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

from pipeline.command import ExitCode, TryAgainError, end_at_once
from pipeline.native_output import show_native_output
from trainer.devices.sockets import connect, wait_for_all

JOB = "worker"  # as TPUClusterResolver names it
_START_SECONDS = 600.0  # hosts of a slice rarely start at the same moment
_RESTART_SECONDS = 15.0  # a first host that is back by then finds the servers of the others still there
_ONCE_MORE_SECONDS = 1.0  # less than a server takes to start: one that is back by then has lost what it held
_SILENCE_SECONDS = 60.0  # a host from which nothing is heard for so long is asked anew whether it is there
_LOAD_LIBRARY = "TPU_LOAD_LIBRARY"


def leave_chips_alone() -> None:
    """Keeps TensorFlow from taking the chips in this process: they are the server's. Call it before the import."""
    os.environ.setdefault(_LOAD_LIBRARY, "0")


def start(number: int, addresses: Sequence[str]) -> object:
    """Starts the server of a host in this process, with which it ends.

    Args:
      number: of the host.
      addresses: host:port of every host's server, in order.

    Raises:
      TryAgainError: it cannot listen at its address.
    """
    import tensorflow as tf  # takes seconds, and the chips

    cluster = tf.train.ClusterSpec({JOB: list(addresses)})
    try:
        return tf.distribute.Server(cluster, job_name=JOB, task_index=number, protocol="grpc")
    except tf.errors.OpError as error:
        raise TryAgainError(
            f"the TensorFlow server of host {number} cannot listen at {addresses[number]} ({error.message}); is an "
            "earlier attempt still running?"
        ) from error


def serve(number: int, addresses: Sequence[str]) -> None:
    """Serves the chips of a host that is not the first, until that one has gone.

    Raises:
      TryAgainError: this host's server cannot start, or the first host does not come.
    """
    server = start(number, addresses)
    # TensorFlow's own handler, which its server has just set, only notes the signal.
    signal.signal(signal.SIGTERM, lambda *_: _end("stopped on request; run the same command again on all hosts"))
    first = addresses[0]
    _wait_for([first])
    while not wait_for_all([first], seconds=_RESTART_SECONDS):
        _wait_for_end(first)
    del server


@contextlib.contextmanager
def beside(number: int, addresses: Sequence[str]) -> Iterator[None]:
    """Has a process of its own serve this host's chips from now on; the block begins when all hosts serve theirs.

    Raises:
      TryAgainError: a host does not come, or this one's server ends; its own words are on stderr.
    """
    command = [sys.executable, "-m", "trainer.devices.tpu.server_child", str(number), *addresses]
    environment = {name: value for name, value in os.environ.items() if name != _LOAD_LIBRARY}
    # However this process ends, the other one's input does, and it ends with that. Not sooner: TensorFlow, which says
    # goodbye to its servers when it ends, would wait for this one.
    server = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr, env=environment
    )
    assert server.stdout is not None
    if not server.stdout.readline():  # it says so when it listens: another one may answer at its address
        raise TryAgainError(f"the TensorFlow server of this host ended with code {server.wait()}, as it says above")
    _wait_for(addresses)
    yield


@contextlib.contextmanager
def watched(addresses: Sequence[str]) -> Iterator[None]:
    """Ends this process with exit code 75 if one of the hosts goes while the block runs.

    TensorFlow tells of a host that has gone with one call, and waits for it for ever with the next.
    """
    for address in addresses:
        threading.Thread(target=_watch, args=(address,), daemon=True).start()
    try:
        yield
    except Exception:
        # Perhaps it is seen here first. A process that is killed closes the socket at which it listens last.
        time.sleep(_ONCE_MORE_SECONDS)
        for address in addresses:
            if wait_for_all([address], seconds=_ONCE_MORE_SECONDS):
                _end_without(address)
        raise


def _watch(address: str) -> None:
    while not wait_for_all([address], seconds=_ONCE_MORE_SECONDS):
        _wait_for_end(address)
    _end_without(address)


def _end_without(address: str) -> None:
    _end(
        f"the TPU's host at {address} is gone, its own log says why; start the same command again on all hosts to go "
        "on from the newest checkpoint"
    )


def _end(message: str) -> None:
    """Ends the process without waiting for TensorFlow."""
    show_native_output()  # in which TensorFlow may say more
    end_at_once(ExitCode.AGAIN, f"error: {message}")


def _wait_for_end(address: str) -> None:
    """Waits until a connection ends, which it does at once when the process that listens there ends."""
    with contextlib.suppress(OSError), connect(address, seconds=_SILENCE_SECONDS) as connection:
        while connection.recv(4096):  # gRPC closes a connection that says nothing, too: whoever calls this looks again
            pass


def _wait_for(addresses: Sequence[str]) -> None:
    if missing := wait_for_all(addresses, seconds=_START_SECONDS):
        raise TryAgainError(
            f"no TensorFlow server at {', '.join(missing)} after {_START_SECONDS:.0f} s; start the command on all "
            "hosts of the TPU"
        )
