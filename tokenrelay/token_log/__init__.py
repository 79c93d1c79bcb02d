"""The durable store of generations in Redis: the queue, the records and the token logs."""
