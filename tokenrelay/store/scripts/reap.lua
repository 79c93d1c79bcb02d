-- Decides what time has decided: overdue generations end, those of dead workers go back to the front of their queue,
-- and what is past its retention, or above the memory watermark the oldest finished, is dropped.
--
-- Arguments: limit number, lease_ms number, retention_ms number,
--     cancelled, past_deadline, past_queue_timeout, drop_above number, keep_ms number
-- At most `limit` generations are looked at. The next three are the terminal records of what ends so. Above drop_above, a share
-- of maxmemory, finished generations go early. They stay for keep_ms all the same: a reader that is behind has still to read the end.
-- Replies {now in microseconds, looked at, taken over, expired, cancelled, dropped early,
--          {id and state of each one that expired or was cancelled...}, {ids of damaged ones...}, {keys set aside, as what...}}.
local terminals = {cancelled = cancelled, deadline = past_deadline, queue_timeout = past_queue_timeout}
local taken_over, expired_count, cancelled_count, dropped, ended, damaged = 0, 0, 0, 0, {}, {}
allow_out_of_memory()

-- When Redis' clock is set back, what was due by the old time would be looked at much too late, and a dead owner's lease
-- would last until the old time comes round again. So all is looked at now, and no lease counts for longer than a new one.
local seen = tonumber(on_shared('HGET', PREFIX .. 'server', 'seen') or 0) or 0
if seen > NOW + lease_ms then
    for _, id in ipairs(on_shared('ZRANGE', DUE, 0, -1)) do redis.call('ZADD', DUE, NOW, id) end
end
local LONGEST_LEASE = 10 * lease_ms  -- processes may differ for a while, when the setting is changed

local leases_count = NOW >= back_since(lease_ms) + lease_ms
redis.call('HSET', PREFIX .. 'server', 'seen', NOW)

local function finish_expired(id, record, state, terminal)
    conclude(id, record, state, terminal, retention_ms)
    ended[#ended + 1] = id
    ended[#ended + 1] = state
    if state == EXPIRED then expired_count = expired_count + 1 else cancelled_count = cancelled_count + 1 end
end

local function decide(id)
    redis.call('ZREM', DUE, id)
    local record = read(id, 'owner', 'lease', 'cancelled', 'cancel_at', 'deadline', 'queue_deadline', unpack(CONCLUDE))
    if not record or record.state > RUNNING then return end
    if record.state == QUEUED then
        local state, terminal = overdue(id, record, terminals, lease_ms)
        if state then
            finish_expired(id, record, state, terminal)
            return
        end
    elseif record.deadline and tonumber(record.deadline) + lease_ms <= NOW and leases_count then
        -- Its owner goes on renewing, and has not ended it; it is fenced off from now on.
        finish_expired(id, record, EXPIRED, terminals.deadline)
        tell_owner(record, id)
        return
    elseif tonumber(record.lease or 0) > NOW + LONGEST_LEASE then
        record.lease = NOW + lease_ms
        redis.call('HSET', record_key(id), 'lease', record.lease)
    elseif passed(record.lease) and leases_count then
        requeue(id, record)
        record.state = QUEUED
        record.lease = nil
        taken_over = taken_over + 1
    elseif is_unwanted(id, record, lease_ms) then
        tell_owner(record, id)
    end
    local look = next_look(record, lease_ms)
    if look then look_at(id, math.max(look, NOW + 100)) end
end

local ids = on_shared('ZRANGEBYSCORE', DUE, '-inf', NOW, 'LIMIT', 0, limit)
for _, id in ipairs(ids) do
    if guarded(decide, id) == 'DAMAGED' then
        -- Nobody can go on with it, and its readers are told so. It is looked at no more, and is gone after a while.
        damaged[#damaged + 1] = id
        redis.call('PEXPIRE', record_key(id), retention_ms)
        redis.call('PEXPIRE', log_key(id), retention_ms)
    end
end

on_shared('ZREMRANGEBYSCORE', FINISHED, '-inf', NOW - retention_ms)
local function above_watermark()
    local memory = redis.call('INFO', 'memory')
    local used, maximum = tonumber(string.match(memory, 'used_memory:(%d+)')), tonumber(string.match(memory, 'maxmemory:(%d+)'))
    return maximum > 0 and used > maximum * drop_above
end
while dropped < limit and above_watermark() do
    local oldest = redis.call('ZRANGEBYSCORE', FINISHED, '-inf', NOW - keep_ms, 'LIMIT', 0, 10)
    if #oldest == 0 then break end
    for _, id in ipairs(oldest) do
        redis.call('ZREM', FINISHED, id)
        local idempotency = attempt('HGET', record_key(id), 'idempotency')
        if idempotency then redis.call('DEL', idempotency_key(idempotency)) end
        redis.call('DEL', record_key(id), log_key(id))
        dropped = dropped + 1
    end
end
local aside = on_shared('HGETALL', PREFIX .. 'foreign')
redis.call('DEL', PREFIX .. 'foreign')
return {NOW_US, #ids, taken_over, expired_count, cancelled_count, dropped, ended, damaged, aside}
