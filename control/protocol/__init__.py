"""Between the plugin, dpctl and the agent: frames on a unix socket, and the queue for where nobody answers."""
