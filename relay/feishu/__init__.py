"""Feishu's API, asked by relay: the token, the subscription, the backfill.

Never needed to take an event by webhook.
"""
