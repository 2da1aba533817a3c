"""Writes the table of ``hub/metrics.py`` in Prometheus' formats."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from hub import metrics


def families() -> list[Metric]:
    """All current metrics, and those of the process. Quick: they are not rendered yet."""
    return [*map(_family, metrics.TABLE), *_PROCESS.collect()]


def written(found: list[Metric], accept: str) -> tuple[bytes, str]:
    """Metrics as text, and its content type, in the newest format that a scraper accepts. May run in a thread."""
    try:
        encode, content_type = choose_encoder(accept)
    except TypeError:  # it compares a version that has letters with a number
        encode, content_type = choose_encoder("")
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Ready(found))
    return encode(registry), content_type


def _family(metric: metrics.Metric | metrics.Histogram) -> Metric:
    if isinstance(metric, metrics.Histogram):
        histogram = HistogramMetricFamily(metric.name, metric.text, labels=metric.labels)
        for labels, distribution in list(metric.values.items()):
            histogram.add_metric(labels, list(_buckets(metric.bounds, distribution.counts)), distribution.sum)
        return histogram
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.text, labels=metric.labels)
    for labels, value in list(metric.values.items()):  # in one step: the thread of the log may count a line
        family.add_metric(labels, value)
    if metric.kind == "counter" and not metric.labels and not metric.values:
        family.add_metric((), 0)  # a rate needs an earlier value
    return family


def _buckets(bounds: tuple[float, ...], counts: list[int]) -> Iterator[tuple[str, float]]:
    """Prometheus counts in each bucket all values up to its bound."""
    total = 0
    for bound, count in zip([*map(str, map(float, bounds)), "+Inf"], counts, strict=True):
        total += count
        yield bound, total


class _Ready:
    """A collector of metrics that were collected earlier."""

    def __init__(self, found: list[Metric]) -> None:
        self._found = found

    def collect(self) -> list[Metric]:
        """All metrics."""
        return self._found


_PROCESS = ProcessCollector(registry=None)
"""CPU, memory, open files and the start of the process, under the names that dashboards know."""
