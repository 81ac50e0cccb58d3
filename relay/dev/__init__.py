"""`relay dev`: broker, relay and simulator in one process, and one screen for them."""
