"""The contract in the words of those who consume it: Kafka Connect, Flink, ksqlDB, PostgreSQL.

Made of the JSON Schemas, so each says what they say, as far as its own types can.
"""
