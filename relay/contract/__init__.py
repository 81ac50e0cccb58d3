"""What consumers read: identity, rules, JSON and schemas, each a function of its arguments.

Pure: no socket, no file, no clock, no asyncio. The same event gives the same bytes, wherever and
whenever it is normalized.
"""
