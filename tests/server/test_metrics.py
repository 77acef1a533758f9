"""What is counted in plain numbers arrives in the library's counters as if it had counted."""

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from dtr.server.metrics import Metrics

_BOUNDS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10, 60, 600)
_ROUTE = "/v2/{name}/blobs/{digest}"


def _lines(text: bytes, name: str) -> set[str]:
    return {
        line
        for line in text.decode().splitlines()
        if line.startswith(name) and "_created" not in line
    }


def test_a_batch_of_requests_is_what_the_library_would_have_counted() -> None:
    """Every bound's count, at the bounds themselves too, the sum, and past the last bound."""
    registry = CollectorRegistry()
    one_by_one = Histogram(
        "dtr_http_request_seconds", "Time.", ("route",), buckets=_BOUNDS, registry=registry
    )
    metrics = Metrics()
    for seconds in (0.0, 0.0005, *_BOUNDS, 0.3, 700.0, 0.3):
        one_by_one.labels(_ROUTE).observe(seconds)
        metrics.request(_ROUTE, "GET", 200, seconds=seconds, received=1, sent=1000)
    found = metrics.exposition(uploads_open=0)
    expected = _lines(generate_latest(registry), "dtr_http_request_seconds")
    assert _lines(found, "dtr_http_request_seconds") == expected
    labels = f'{{method="GET",route="{_ROUTE}",status="200"}}'
    assert f"dtr_http_requests_total{labels} 14.0" in _lines(found, "dtr_http_requests_total")
    assert _lines(found, "dtr_http_sent_bytes_total") == {
        f'dtr_http_sent_bytes_total{{route="{_ROUTE}"}} 14000.0'
    }


def test_a_request_is_handed_on_once() -> None:
    """A second scrape adds nothing to what the first one saw."""
    metrics = Metrics()
    metrics.request(_ROUTE, "GET", 200, seconds=0.1, received=0, sent=5)
    first = metrics.exposition(uploads_open=0)
    metrics.flush()
    assert metrics.exposition(uploads_open=0) == first
    assert _lines(first, "dtr_http_received_bytes_total") == set()
