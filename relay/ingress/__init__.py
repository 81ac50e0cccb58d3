"""A delivery becomes an authentic, identified event on disk, or a refusal that Feishu is told.

Both ways in end here: the webhook and the long connection. Nothing here publishes, and no body is
read before it is known to be authentic.
"""
