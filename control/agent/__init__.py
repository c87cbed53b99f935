"""The resident process: its loop, what it hears, remembers and shows."""
