-- Takes a dead letter out of its stream.
--
-- ARGV: model, the letter's entry
-- Replies {now in microseconds, 1 if it was still there}.
local model, entry = ARGV[1], ARGV[2]
return {NOW_US, redis.call('XDEL', dead_key(model), entry)}
