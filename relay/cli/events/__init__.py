"""`relay events`: find, show, replay, discard and move what a journal holds."""
