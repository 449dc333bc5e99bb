"""One run, from an empty folder to a finished one."""
