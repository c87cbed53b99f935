"""IP address management: for main plugins, and as the plugin host-local.

choice      which of the two below serves a configuration
hostlocal   host-local, in this process
delegate    any other plugin, by its executable
result      what either answers
"""
