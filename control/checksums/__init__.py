"""Frames and their checksums, judged without a kernel."""
