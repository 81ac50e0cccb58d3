"""Metrics, logs and traces: what relay says of itself. Decides nothing."""
