"""Kernel and state compared, what differs put right, and when to look."""
