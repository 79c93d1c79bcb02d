-- Deletes a consumer of a model's queues that is gone, unless entries are still pending on it: deleting would lose them.
--
-- Arguments: model, consumer
-- Replies {now in microseconds, how many entries are still pending on it}.
local left = 0
allow_out_of_memory()

-- A queue or its group may have vanished, or be none of ours: nothing is pending there then.
local function is_gone(reply)
    if type(reply) ~= 'table' or not reply.err then return false end
    for _, mark in ipairs({'NOGROUP', 'no such key', 'requires the key to exist', 'WRONGTYPE'}) do
        if string.find(reply.err, mark, 1, true) then return true end
    end
    return error(reply)
end

for _, queue in ipairs({'returned', 'jobs'}) do
    local key = queue_key(queue, model)
    local pending = redis.pcall('XPENDING', key, GROUP, '-', '+', 10, consumer)
    if not is_gone(pending) then
        if #pending == 0 then redis.call('XGROUP', 'DELCONSUMER', key, GROUP, consumer) end
        left = left + #pending
    end
end
return {NOW_US, left}
