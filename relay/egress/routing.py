"""Builds what an operator's settings make of records: their topics and keys, and what they show."""

from relay.contract.normalize import Router
from relay.contract.rules.privacy import Guard
from relay.settings import Settings


def router(settings: Settings) -> Router:
    """Give the router of these settings."""
    privacy, kafka = settings.privacy, settings.kafka
    guard = Guard(privacy.drop, privacy.hash, privacy.key)
    return Router(*kafka.routes, guard, dead_letter_value=kafka.dead_letter_value)
