-- Deletes a consumer of a model's queues that is gone, unless entries still hang on it: deleting would lose them.
--
-- ARGV: model, consumer
-- Replies {now in microseconds, how many entries still hang on it}.
local model, consumer = ARGV[1], ARGV[2]
local left = 0
for _, queue in ipairs({'returned', 'jobs'}) do
    local key = queue_key(queue, model)
    local pending = #redis.call('XPENDING', key, GROUP, '-', '+', 10, consumer)
    if pending == 0 then redis.call('XGROUP', 'DELCONSUMER', key, GROUP, consumer) end
    left = left + pending
end
return {NOW_US, left}
