"""Metrics: what is counted as it happens, what is looked at by the minute, and how Prometheus is told of both."""
