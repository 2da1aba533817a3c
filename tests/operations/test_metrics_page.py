"""docs/metrics.md is what the table says."""

from tools.metrics_page import PAGE, page


def test_the_metrics_page_is_up_to_date() -> None:
    """Else run `make metrics-page`."""
    assert PAGE.read_text() == page()
