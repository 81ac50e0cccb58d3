"""Feishu helpdesk events, once and in order, on Kafka."""

__version__ = "0.1.0"
