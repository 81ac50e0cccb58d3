"""Feishu's API, asked by relay: the token, the subscription, the backfill.

Never needed to take an event by webhook. Here stands also how a call over HTTP leaves the house.
"""
