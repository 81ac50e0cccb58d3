"""The only owner of aiokafka: its clients, its private attributes, its errors, in relay's terms.

Nothing of aiokafka's leaves it but the options for a client of `relay tail`; it never decides what
is published, and tries nothing again.
"""
