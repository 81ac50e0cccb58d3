"""What relay tells about its settings: their schema, their meanings, where a value came from."""
