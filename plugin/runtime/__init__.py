"""What a runtime does with a conflist, as libcni does it: for ``dpctl cni``, the demo and the tests.

driver        runs the plugins of a conflist
conflist      what a network configuration list says
resultcache   results that were kept, in libcni's own files
cli           the commands
"""
