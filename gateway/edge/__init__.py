"""The gateway's edge: which server takes the connections, and how the application hangs on it."""
