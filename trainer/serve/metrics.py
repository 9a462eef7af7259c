"""Counts what the server does, for Prometheus."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Holds the counters of a server."""

    def __init__(self) -> None:
        disable_created_metrics()
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "serve_requests", "Requests answered.", ["route", "status", "version"], registry=self._registry
        )
        self._seconds = Histogram(
            "serve_request_seconds", "From a request's head to its answer.", ["route"],
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self._images = Counter("serve_images", "Images, by what became of them.", ["outcome"], registry=self._registry)
        self._batch = Histogram(
            "serve_batch_size", "Images that the model was asked about at once.",
            buckets=_BATCHES, registry=self._registry,
        )  # fmt: skip
        self._waiting = Gauge("serve_images_waiting", "Images that are not answered yet.", registry=self._registry)
        self._swaps = Counter("serve_model_changes", "Times that the model was changed.", ["result"],
                              registry=self._registry)  # fmt: skip
        for result in ("changed", "refused"):
            self._swaps.labels(result)

    def request(self, route: str, status: int, version: str, seconds: float) -> None:
        """Counts a request that has been answered."""
        self._requests.labels(route, str(status), version).inc()
        self._seconds.labels(route).observe(seconds)

    def image(self, outcome: str) -> None:
        """Counts an image: "answered", or the code of its reject."""
        self._images.labels(outcome).inc()

    def batch(self, size: int) -> None:
        """Counts a batch, from any thread."""
        self._batch.observe(size)

    def changed(self, result: str) -> None:
        """Counts a model that was "changed" or "refused"."""
        self._swaps.labels(result).inc()

    def text(self, *, waiting: int) -> bytes:
        """Returns all of them in Prometheus' text format."""
        self._waiting.set(waiting)
        return generate_latest(self._registry)
