"""Runs as a child of `server.beside`: serves this host's chips until its standard input ends."""

from __future__ import annotations

import os
import signal
import sys

from pipeline.command import CommandError
from trainer.devices.tpu.server import start


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the process that trains, too, which saves first
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as does what systemd sends to all processes of a service
    number, *addresses = sys.argv[1:]
    try:
        server = start(int(number), addresses)
    except CommandError as error:
        sys.exit(f"error: {error}")
    print("listening", flush=True)
    sys.stdin.buffer.read()
    del server
    os._exit(0)  # the server's threads would keep the process


if __name__ == "__main__":
    main()
