"""Writes docs/metrics.md from the table in hub/metrics.py; a test checks that it is current."""

from pathlib import Path

from hub import metrics

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"

HEAD = """# Metrics

Prometheus scrapes these at `/metrics` of the hub's HTTP listener, `127.0.0.1:50080` unless you set `http_listen`
([operations](operations.md)). `make metrics-page` writes this page from `hub/metrics.py`.

Times are in seconds, sizes in bytes. Labels are closed sets and never name an integration, a server or a key; `hub top`
and `AdminService.WatchHub` name the readers that are behind. Counters and histograms belong to one process and start at
0 with it: sum their rates over replicas. Gauges about the log (`hub_integrations`, `hub_endpoint*`,
`hub_readers*`) are the same on every replica: take the maximum.

"""


def page() -> str:
    """The whole page."""
    rows = ["| name | type | labels | what it measures |", "|---|---|---|---|", *map(_row, metrics.TABLE)]
    return HEAD + "\n".join(rows) + "\n" + FOOT


FOOT = """
The page also has the usual `process_cpu_seconds_total`, `process_resident_memory_bytes`, `process_open_fds`,
`process_max_fds`, `process_virtual_memory_bytes` and `process_start_time_seconds`.
"""


def _row(metric: metrics.Metric | metrics.Histogram) -> str:
    name = metric.name + ("_total" if metric.kind == "counter" else "")
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{name}` | {metric.kind} | {labels} | {metric.text} |"


if __name__ == "__main__":
    PAGE.write_text(page())
