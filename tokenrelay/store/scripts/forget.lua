-- Deletes a consumer of a model's queues that is gone, unless entries are still pending on it: deleting would lose them.
--
-- Arguments: model, consumer
-- Replies {now in microseconds, how many entries are still pending on it}.
allow_out_of_memory()
local left = 0
for _, queue in ipairs({'returned', 'jobs'}) do
    local key = queue_key(queue, model)
    local pending = #redis.call('XPENDING', key, GROUP, '-', '+', 10, consumer)
    if pending == 0 then redis.call('XGROUP', 'DELCONSUMER', key, GROUP, consumer) end
    left = left + pending
end
return {NOW_US, left}
