"""Who calls: keys, callers, and what they may do. Knows neither a store nor a protocol."""
