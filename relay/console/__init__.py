"""The operator's pages, and the JSON behind them: what came, what became of it, over all replicas.

Reads on connections of its own, in a thread; changes only what `journal/view` changes. Its answers
hold no secret, and what customers wrote is text on every page.
"""
