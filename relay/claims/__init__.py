"""Which of several replicas publishes an event, kept in Redis.

Never holds up an answer to Feishu: while the store is away, events wait on disk.
"""
