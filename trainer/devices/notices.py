"""Hears from Google's metadata server that this machine is to go: pre-empted now, or stopped for maintenance soon.

SIGTERM comes with the shutdown itself, some 30 seconds before the end, which a large model's checkpoint may take.
Notices come before, that of maintenance up to an hour. Free of TensorFlow.
https://docs.cloud.google.com/compute/docs/instances/create-use-spot#detect-preemption
https://docs.cloud.google.com/compute/docs/metadata/getting-live-migration-notice
"""

from __future__ import annotations

import http.client
import threading
import time
import urllib.request
from collections.abc import Callable

METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/"
PREEMPTED, MAINTENANCE = "preempted", "maintenance-event"
# Key → what it says when this machine is to end. (Others are moved alive, of which programs see nothing.)
_ENDS = {PREEMPTED: "TRUE", MAINTENANCE: "TERMINATE_ON_HOST_MAINTENANCE"}
_WAIT_SECONDS = 60  # for which the server holds a request while nothing changes
_PAUSE = 5.0  # after it did not answer


def watch(on_notice: Callable[[str], object], *, metadata: str = METADATA) -> None:
    """Has a thread for each kind of notice call `on_notice` once, with `PREEMPTED` or `MAINTENANCE`, when it comes."""
    for key in _ENDS:
        threading.Thread(target=_watch, args=(metadata, key, on_notice), daemon=True).start()


def _watch(metadata: str, key: str, on_notice: Callable[[str], object]) -> None:
    etag = "0"  # no etag that there is: the first answer comes at once
    while True:
        query = f"?wait_for_change=true&timeout_sec={_WAIT_SECONDS}&last_etag={etag}"
        request = urllib.request.Request(metadata + key + query, headers={"Metadata-Flavor": "Google"})
        try:
            with urllib.request.urlopen(request, timeout=2 * _WAIT_SECONDS) as response:
                said, etag = response.read().decode().strip(), response.headers.get("ETag", "0")
        except (OSError, http.client.HTTPException):
            time.sleep(_PAUSE)
            continue
        if said == _ENDS[key]:
            on_notice(key)
            return
        if etag == "0":  # it knows no etags, and will not wait
            time.sleep(_PAUSE)
