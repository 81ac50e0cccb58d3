"""No network: pure functions, and the journal on a real file."""
