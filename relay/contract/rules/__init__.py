"""How a field becomes uniform: the kinds of rules, the tables of them, the helpdesk's own tables.

A rule makes a value uniform or refuses it with Unexpected; it never guesses and never fails.
"""
