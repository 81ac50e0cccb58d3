"""Arguments in, the part that does the work, exit codes out. No work is done here."""
