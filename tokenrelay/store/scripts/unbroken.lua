-- Tells since when Redis is there without a gap. What is older may have lost its end, by a failover or by a crash.
--
-- Arguments: lease_ms number
-- Replies {now in microseconds, since when: milliseconds of Redis' clock}.
allow_out_of_memory()
return {NOW_US, back_since(lease_ms)}
