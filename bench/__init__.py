"""The benchmark: the relay against a bare aiohttp server, a real Kafka behind it."""
