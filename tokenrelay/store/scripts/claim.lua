-- Makes a worker the owner of generations whose queue entries it holds.
--
-- Arguments: model, fingerprint, worker, lease_ms number, retention_ms number,
--     cancelled, past_deadline, past_queue_timeout
-- The fingerprint is that of the worker's engine. The last three are the terminal records of what ends so.
-- Replies {now in microseconds, one of these per generation...}:
--   {CLAIMED, fence, epoch, all fields and values of the record}   the same nonce gets the same fence again
--   {HELD}       another worker owns it
--   {OVER, state}  it ended by this call, since it is cancelled or expired
--   {OVER, 0}    it is terminal or gone, or the entry is an old one; there is nothing to do
local terminals = {cancelled = cancelled, deadline = past_deadline, queue_timeout = past_queue_timeout}
allow_out_of_memory()

local function history_of(record)
    if not record.claimed_us then return '' end
    local appended = record.appended_us or record.claimed_us
    return (record.history or '') .. record.claimed_us .. ',' .. appended .. ',' .. record.last .. ';'
end

local function each(id, nonce, queue, entry)
    local record = read(id, 'epoch', 'fence', 'claimed_us', 'appended_us', 'history', 'cancelled', 'cancel_at',
        'deadline', 'queue_deadline', unpack(CONCLUDE))
    if not record or record.state > RUNNING or record.queue ~= queue or record.entry ~= entry then
        remove_entry(queue, model, entry)
        return {'OVER', 0}
    end
    if record.state == RUNNING then
        local fence = record.epoch .. ':' .. nonce
        if record.fence ~= fence then return {'HELD'} end
        return {'CLAIMED', fence, tonumber(record.epoch), redis.call('HGETALL', record_key(id))}
    end
    local state, terminal = overdue(id, record, terminals, lease_ms)
    if state then
        conclude(id, record, state, terminal, retention_ms)
        return {'OVER', state}
    end
    local epoch = tonumber(record.epoch) + 1
    local fence = digits(epoch) .. ':' .. nonce
    redis.call('HSET', record_key(id), 'state', RUNNING, 'epoch', epoch, 'fence', fence, 'owner', worker,
        'lease', NOW + lease_ms, 'history', history_of(record), 'claimed_us', NOW_US)
    redis.call('HDEL', record_key(id), 'appended_us', 'queue_deadline')
    if not record.claimed_us then redis.call('HSET', record_key(id), 'started_us', NOW_US) end
    if record.last == '0' then redis.call('HSET', record_key(id), 'fingerprint', fingerprint) end
    count_depth(record.model, -1, -tonumber(record.size))
    look_at(id, NOW + lease_ms)
    return {'CLAIMED', fence, epoch, redis.call('HGETALL', record_key(id))}
end

return for_each(each)
