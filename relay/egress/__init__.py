"""Pending events reach Kafka once and in order, and the journal is told.

Never answers Feishu. Whatever aiokafka needs done to it stays behind `egress/kafka/`.
"""
