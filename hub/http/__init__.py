"""The operators' HTTP listener: metrics for Prometheus, and probes. The only package that imports prometheus_client."""
