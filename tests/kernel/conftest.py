"""Fixtures of tests that measure with the bench's own programs and hosts."""

from __future__ import annotations

from support.benched import host, native, newer, stage, told

__all__ = ["host", "native", "newer", "stage", "told"]
