"""What a run leaves behind: its result, made once, and what is written and shown of it."""
