"""The queue side: takes generations from the queue, drives an engine service, and writes the token logs."""
