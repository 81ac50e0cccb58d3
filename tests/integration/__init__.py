"""Real sockets, a real broker, a real Valkey."""
