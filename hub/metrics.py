"""The metrics of the hub, as plain numbers that are changed in place.

This module has the table of all metrics, with their labels and buckets. It imports nothing of ours and no library, so
any module may count at the cost of an addition. Nothing is locked: only the event loop counts. A process runs one hub,
so the numbers belong to the process. Gauges are set right before they are read (``http/gauges.py``).

Labels are closed sets: methods, statuses, reasons, event types, states. Never an integration, a server or a key.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from time import perf_counter
from typing import Literal

Labels = tuple[str, ...]


class Metric:
    """A named number, one for each combination of label values.

    Attributes:
        name: without the ending ``_total`` of a counter.
        values: by the values of the labels, in their order.
    """

    kind: Literal["counter", "gauge"]

    def __init__(self, name: str, text: str, *labels: str) -> None:
        self.name = name
        self.text = text
        self.labels = labels
        self.values: defaultdict[Labels, float] = defaultdict(int)


class Counter(Metric):
    """A value that only grows."""

    kind = "counter"

    def add(self, count: float = 1, *labels: str) -> None:
        """Count some more."""
        self.values[labels] += count


class Gauge(Metric):
    """A value that goes up and down; an unknown one is left out."""

    kind = "gauge"

    def set(self, value: float, *labels: str) -> None:
        """Set the current value."""
        self.values[labels] = value

    def add(self, more: float, *labels: str) -> None:
        """Increase the value."""
        self.values[labels] += more

    def clear(self) -> None:
        """Forget all values."""
        self.values.clear()


class Distribution:
    """How many values fell into each bucket: above the previous bound, and at most its own.

    Attributes:
        counts: one for each bound, and one for the values above all of them.
    """

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


class Histogram:
    """A distribution for each combination of the values of its labels."""

    kind = "histogram"

    def __init__(self, name: str, text: str, bounds: Sequence[float], *labels: str) -> None:
        self.name = name
        self.text = text
        self.bounds = tuple(bounds)
        self.labels = labels
        self.values: dict[Labels, Distribution] = {} if labels else {(): Distribution(self.bounds)}

    def add(self, value: float, *labels: str) -> None:
        """Count a value."""
        found = self.values.get(labels)
        if found is None:
            found = self.values[labels] = Distribution(self.bounds)
        found.add(value)

    def counts(self) -> list[int]:
        """What `quantile` needs of a histogram without labels."""
        return list(self.values[()].counts)


def quantile(histogram: Histogram, part: float, counts: Sequence[int]) -> float:
    """The value below which a share of the counted values lie; 0 if there are none.

    Values are assumed to be spread evenly within a bucket; values beyond the last bound count as that bound.
    """
    wanted, below, lower = part * sum(counts), 0, 0.0
    for count, bound in zip(counts, histogram.bounds, strict=False):
        if count and below + count >= wanted:
            return lower + (bound - lower) * (wanted - below) / count
        below, lower = below + count, bound
    return histogram.bounds[-1] if below < sum(counts) else 0.0


now = perf_counter
"""The monotonic time in seconds, for durations."""

CALL_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""The bounds that OpenTelemetry's conventions for RPC advise."""

STORE_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
READER_SECONDS = (1, 10, 60, 600, 3600, 6 * 3600, 24 * 3600, 72 * 3600, 168 * 3600)

CALLS = Histogram(
    "rpc_server_call_duration_seconds",
    "Duration of calls; that of a Subscribe call is its stream's.",
    CALL_SECONDS,
    "rpc_method",
    "rpc_response_status_code",
    "error_type",
)
ACCEPTED = Counter("hub_events_accepted", "Events stored for the first time by this replica.", "event_type")
DUPLICATES = Counter("hub_events_duplicate", "Events that had been stored before, answered as duplicates.")
APPLIED = Counter(
    "hub_events_applied", "Events of the log that this replica has applied, whichever replica accepted them."
)
DELIVERED = Counter("hub_events_delivered", "Events sent on streams; one event counts once for each stream.")
FRAMES = Counter("hub_frames_sent", "Frames sent on streams: events, notices and heartbeats.")
FRAME_BYTES = Counter("hub_frames_sent_bytes", "Bytes of these frames, before compression and TLS.")
STREAMS_ENDED = Counter("hub_streams_ended", "Streams that have ended, by reason.", "reason")
APPENDS = Histogram(
    "hub_store_append_duration_seconds",
    "Time from the acceptance of events until they were durable, waiting included.",
    STORE_SECONDS,
)
COMMITS = Histogram(
    "hub_store_commit_duration_seconds", "Time in which the store wrote one group of appends.", STORE_SECONDS
)
GROUPS = Histogram("hub_store_group_entries", "Entries in one group.", SIZES)
COMMIT_FAILURES = Counter("hub_store_commit_failures", "Groups that the store failed to write.")
LOOP_LAG = Histogram("hub_event_loop_lag_seconds", "How late the event loop ran a timer that was due.", LAG_SECONDS)
LOG_LINES = Counter("hub_log_lines", "Log lines, by level.", "level")
LOG_LINES_DROPPED = Counter(
    "hub_log_lines_dropped", "Log lines that were lost because standard error took them too slowly or not at all."
)
PUT_OFF = Counter("hub_work_put_off", "Housekeeping that was put off because the store refused it.", "work")
HTTP_REQUESTS = Counter(
    "hub_http_requests",
    "Requests to the HTTP listeners: the operators' one and the public directory.",
    "path",
    "status",
)

WEBHOOK_REQUESTS = Histogram(
    "hub_webhook_request_duration_seconds",
    "Duration of requests to endpoints, by outcome: OK, or a DeliveryFailure.",
    CALL_SECONDS,
    "outcome",
)
WEBHOOK_EVENTS = Counter("hub_webhook_events_delivered", "Events that receivers have acknowledged.")

INFO = Gauge("hub_info", "Always 1; the labels have version, storage and replica.", "version", "storage", "replica")
START_TIME = Gauge("hub_start_time_seconds", "When the hub began to serve, in seconds since 1970.")
SERVING = Gauge("hub_serving", "1 while calls are served, like /readyz.")
STORE_CURRENT = Gauge("hub_store_current", "1 while the contact to the store is recent enough to send events.")
STORE_FAILED = Gauge("hub_store_failed", "1 once the store has failed; only a restart helps.")
STORE_SILENCE = Gauge("hub_store_silence_seconds", "Time since this replica last proved that it misses no entry.")
STORE_DAMAGED = Gauge("hub_store_damaged_entries", "Entries found damaged since the start.")
STORE_BYTES = Gauge("hub_store_bytes", "Size of the files of the embedded store.")
DISK_FREE = Gauge("hub_store_disk_free_bytes", "Free space on the disk of the embedded store.")
DISK_SIZE = Gauge("hub_store_disk_size_bytes", "Size of that disk.")
BACKUP_TIME = Gauge("hub_backup_time_seconds", "When the last `hub backup` completed, in seconds since 1970.")
FIRST_TIME = Gauge("hub_log_first_time_seconds", "All events accepted since then are kept; in seconds since 1970.")
POSITION = Gauge("hub_log_position", "The newest position of the log that this replica has applied.")
RETENTION = Gauge("hub_retention_seconds", "How long events are kept.")
STREAMS = Gauge("hub_streams", "Open streams, by what they do.", "state")
INTEGRATIONS = Gauge("hub_integrations", "Integrations, by state.", "state")
ENDPOINTS = Gauge("hub_endpoints", "Endpoints of all integrations, by state.", "state")
ENDPOINT_FAILING_MAX = Gauge(
    "hub_endpoint_failing_max_seconds", "How long the longest failing endpoint has been FAILING; 0 if none fails."
)
READERS = Gauge("hub_readers", "Subscriptions and enabled endpoints of all integrations.")
READERS_BEHIND = Gauge(
    "hub_readers_behind",
    "Readers that are further behind than this many seconds, by the events that they may see.",
    "seconds",
)
READER_LAG_MAX = Gauge("hub_reader_lag_max_seconds", "How far the slowest reader is behind.")
READERS_LOSING = Gauge(
    "hub_readers_near_retention",
    "Endpoints, and readers with a committed cursor, that are behind by more than 80 % of the retention.",
)
READER_LOSES_IN = Gauge(
    "hub_reader_loses_events_seconds",
    "Time until one of these readers loses events, unless it catches up; the retention where none is behind.",
)
KEYS_EXPIRING = Gauge("hub_keys_expiring", "Active keys that expire within 7 days and have no successor.")
CERTIFICATE_END = Gauge("hub_certificate_end_seconds", "When the hub's certificate expires, in seconds since 1970.")
LIMIT = Gauge("hub_limit", "The value of a setting that is a limit.", "setting")
LIMIT_USED = Gauge(
    "hub_limit_used",
    "How much of the limit is used; of a limit for each integration, key or address, by the one that uses most.",
    "setting",
)

TABLE: tuple[Metric | Histogram, ...] = tuple(
    one for one in list(globals().values()) if isinstance(one, Metric | Histogram)
)
"""All metrics, in the order of ``docs/metrics.md``."""

for _level in ("debug", "info", "warning", "error", "critical"):
    LOG_LINES.add(0, _level)  # the first error is an increase of something

METHODS: dict[str, str] = {}
"""Full names of methods, by those that the log uses: the contract's, and those of health and reflection."""


def note_call(began: float, method: str, status: str, error_type: str = "") -> None:
    """Count a call that has ended; `began` is by `now`."""
    CALLS.add(perf_counter() - began, METHODS.get(method, method), status, error_type)
