"""What a disk may do to a journal: refuse, fill up, be another machine's; a copy of a journal."""
