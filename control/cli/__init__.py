"""dpctl: its root, and the commands that control brings."""
