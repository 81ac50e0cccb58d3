"""The real command as a process, killed and restarted."""
