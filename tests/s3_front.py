"""Serves s3:// with moto, one request at a time: `python -m tests.s3_front PORT`, on loopback only.

moto looks whether an object exists (If-None-Match) and then writes it, and its threads let another request through in
between: two who create one object at once may both be told that they did. S3 tells only one of them.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple


def main(port: int) -> None:
    moto, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def one_at_a_time(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with lock:
            return moto(environ, start_response)

    # Threads all the same, because a client that keeps its connection open would keep all others out.
    run_simple("127.0.0.1", port, one_at_a_time, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    main(int(sys.argv[1]))
