"""Feishu helpdesk events, once and in order, on Kafka."""

import sys
from importlib import import_module

# structlog takes rich along, where that is installed, to draw tracebacks: 4 MB that a process which
# serves for weeks has no use for. Commands that draw import it themselves.
if sys.modules.keys().isdisjoint({"structlog", "rich"}):
    sys.modules["rich"] = None  # type: ignore[assignment]  # import's own sign for: not to be had
    import_module("structlog")
    del sys.modules["rich"]

__version__ = "0.1.0"
