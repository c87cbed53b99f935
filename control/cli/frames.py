"""Frames as commands take them on their line: hex text, a file that holds it or a capture, or standard input."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from control.checksums.frame import FrameError


def read_frame(frame: str) -> bytes:
    """What an argument FRAME stands for: text in hex, or a whole file. Raises ``FrameError``, ``OSError``."""
    if frame == "-":
        return sys.stdin.buffer.read()
    path = Path(frame.removeprefix("@"))
    # Hex text is long and full of spaces; asking the kernel whether it is a file may fail for that alone. One word of
    # anything else is a file's name, and if it is not there, that is the error.
    named = frame.startswith("@") or not re.fullmatch(r"[0-9a-fA-F]*|.*\s.*", frame, re.DOTALL)
    if named or (len(frame) < 256 and path.is_file()):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise FrameError(f'could not read frame "{path}": it is no hex text, and there is no such file') from None
    return frame.encode()
