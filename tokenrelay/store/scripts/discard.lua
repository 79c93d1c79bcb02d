-- Takes a dead letter out of its stream.
--
-- Arguments: model, entry
-- Replies {now in microseconds, 1 if it was still there}.
allow_out_of_memory()
return {NOW_US, redis.call('XDEL', dead_key(model), entry)}
