"""What lies in Redis: the token logs, the queue, records and who works; `v1` holds the generated messages of the same name."""
