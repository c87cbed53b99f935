"""Standard streams that whoever started this process has closed.

    open_standard_streams()        # before anything else is opened

What is opened next would get their numbers, and whatever is printed would go into a socket or a database.
"""

from __future__ import annotations

import os
import sys

_INSTEAD = (
    # Nothing was given, and nobody gets the result: reading and writing are errors still.
    ("stdin", os.O_WRONLY, "r"),
    ("stdout", os.O_RDONLY, "w"),
    ("stderr", os.O_WRONLY, "w"),
)


def open_standard_streams() -> None:
    """Have a file behind each of them."""
    for name, flags, mode in _INSTEAD:
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode))
