"""The file on disk: its one writer, its bounds, its memory, an operator's look into it.

A commit here is what a 200 stands for. The room knows neither Kafka nor Feishu, and `sqlite3` does
not leave it: its errors come out as relay's own.
"""
