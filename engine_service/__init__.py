"""The GPU side: runs one model and knows no queue."""
