"""Counters of a frontend and what its router counts, as Prometheus reads them.

Counting is adding to plain numbers; the library only writes the text. Names follow Dynamo's where it has them, with
``callboard_`` in front.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Any

from .errors import MissingServingExtra

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """How many values were at most each bound, as plain numbers."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(SECONDS, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return the cumulated counts by upper bound."""
        sums, seen = [], 0
        for bound, count in zip((*SECONDS, None), self.counts, strict=True):
            seen += count
            sums.append(("+Inf" if bound is None else repr(bound), float(seen)))
        return sums


class FrontendMetrics:
    """What one frontend counts."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, str], int] = {}
        """By model and status; models that nobody serves count as one."""
        self.tokens = self.prompt_tokens = self.cached_tokens = 0
        self.first_token, self.duration = Histogram(), Histogram()

    def ended(self, model: str, status: int) -> None:
        """A request was answered."""
        key = (model, str(status))
        self.requests[key] = self.requests.get(key, 0) + 1


def render(frontend: FrontendMetrics, load: Mapping[str, int], router: Mapping[str, Any] | None) -> bytes:
    """Return the text; ``load`` is the frontend's, ``router`` a router's statistics. Raises `MissingServingExtra`."""
    try:
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.core import Metric
    except ImportError as error:
        raise MissingServingExtra(error.name or "prometheus_client") from None

    class Collector:
        def collect(self) -> Iterator[Metric]:
            yield from _frontend(frontend, load)
            if router is not None:
                yield from _router(router)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector())
    text: bytes = generate_latest(registry)
    return text


def _frontend(frontend: FrontendMetrics, load: Mapping[str, int]) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    requests = CounterMetricFamily(
        "callboard_frontend_requests", "Requests that were answered.", labels=["model", "status"]
    )
    for (model, status), count in frontend.requests.items():
        requests.add_metric([model, status], count)
    yield requests
    yield GaugeMetricFamily(
        "callboard_frontend_inflight_requests", "Requests that are being answered.", load["running"]
    )
    yield CounterMetricFamily(
        "callboard_frontend_disconnected_clients", "Clients that left first.", load["disconnected"]
    )
    for name, text, value in (
        ("output_tokens", "Tokens of answers.", frontend.tokens),
        ("input_tokens", "Tokens of prompts.", frontend.prompt_tokens),
        ("cached_tokens", "Tokens of prompts that were in a cache.", frontend.cached_tokens),
    ):
        yield CounterMetricFamily(f"callboard_frontend_{name}", text, value)
    for name, text, histogram in (
        (
            "time_to_first_token_seconds",
            "From a request to the first part of its answer.",
            frontend.first_token,
        ),
        ("request_duration_seconds", "From a request to the end of its answer.", frontend.duration),
    ):
        family = HistogramMetricFamily(f"callboard_frontend_{name}", text)
        family.add_metric([], histogram.buckets(), histogram.total)
        yield family


def _router(router: Mapping[str, Any]) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    decode, index = router["decode"], router["index"]
    for name, text, value in (
        ("requests", "Generations that were completed.", router["finished"]),
        ("failed_requests", "Generations that could not go on.", router["failed"]),
        ("migrations", "Generations that went on at another worker.", router["migrations"]),
        ("queued_requests", "Requests that had to wait for a worker.", decode["queued"]),
        ("rejections", "Requests that were refused.", decode["refused"]),
        ("inhibitions", "Times that a worker got nothing because it failed.", decode["inhibitions"]),
        ("index_orphan_blocks", "Blocks whose parent was not known.", index["orphans"]),
        ("index_evicted_blocks", "Blocks that the index gave up for room.", index["evicted"]),
        ("overlap_blocks", "Blocks that were expected in the caches.", router["overlap_blocks"]),
        ("prompt_blocks", "Blocks of all prompts.", router["prompt_blocks"]),
    ):
        yield CounterMetricFamily(f"callboard_router_{name}", text, value)
    for name, text, value in (
        ("queue_pending_requests", "Requests that wait for a worker.", decode["waiting"]),
        ("inhibited_workers", "Workers that failed and have not succeeded since.", len(decode["inhibited"])),
        ("index_blocks", "Blocks in the index.", index["blocks"]),
    ):
        yield GaugeMetricFamily(f"callboard_router_{name}", text, value)
    names = {
        "requests": ("worker_active_requests", "Requests on a rank."),
        "prefill_tokens": ("worker_active_prefill_tokens", "Tokens of prompts that wait on a rank."),
        "decode_blocks": ("worker_active_decode_blocks", "Blocks that requests hold on a rank."),
    }
    for key, (name, text) in names.items():
        family = GaugeMetricFamily(f"callboard_router_{name}", text, labels=["worker", "dp_rank"])
        for rank, view in decode["ranks"].items():
            worker, _, dp_rank = rank.partition("/")
            family.add_metric([worker, dp_rank], view[key])
        yield family
