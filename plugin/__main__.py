"""``python -m plugin``: the executable that runtimes start, from a checkout."""

from plugin.shim import main

main()
