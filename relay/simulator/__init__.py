"""Feishu, played: pushes, long connection and API, as strict as the real one.

Never imported by what runs in production.
"""
