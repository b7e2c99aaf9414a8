"""Prometheus metrics of one process. Labels carry routes and outcomes, never anything that users wrote."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Metrics:
    """The metrics and their registry: one a process, so that tests may have several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self.decisions = Counter("trimtab_decisions", "Decided segments", ["route", "cause"], registry=own)
        self.splits = Counter("trimtab_splits", "Queries decided, split or not", ["split"], registry=own)
        self.decide_seconds = Histogram("trimtab_decide_seconds", "Time to decide", buckets=_SECONDS, registry=own)
        self.requests = Counter("trimtab_requests", "Requests", ["path", "status"], registry=own)
        self.version = Gauge("trimtab_router_version", "Number of the router version that decides", registry=own)

        self._counts: dict[tuple[Counter, tuple[str, ...]], Counter] = {}

    def count(self, counter: Counter, *labels: str) -> None:
        """Count one under these labels; finding them costs a counter more than counting, so they are kept."""
        found = self._counts.get((counter, labels))
        if found is None:
            found = self._counts[counter, labels] = counter.labels(*labels)
        found.inc()

    def watch_counts(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a gauge that is read when it is asked for."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text form."""
        return generate_latest(self.registry)
