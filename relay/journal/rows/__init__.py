"""What stands in the file, row by row: events, who the journal is, what claims know of it."""
