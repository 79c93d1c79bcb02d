-- Makes a worker the owner of generations whose queue entries it holds.
--
-- Arguments: model, fingerprint, worker, lease_ms number, retention_ms number,
--     cancelled, past_deadline, past_queue_timeout, log_lost, served
-- The fingerprint is that of the worker's engine, and served has those of the engines that live workers serve, one a line. The
-- four before it are the terminal records of what ends so.
-- Replies {now in microseconds, one of these per generation...}:
--   {CLAIMED, fence, epoch, all fields and values of the record}   the same nonce gets the same fence again
--   {HELD}       another worker owns it
--   {ELSEWHERE, fingerprint}   its tokens come from another kind of engine, which another worker serves: the entry stays pending
--   {OVER, state}  it ended by this call, since it is cancelled or expired, or its log is not what the record says
--   {OVER, 0}    it is terminal or gone, or the entry is an old one; there is nothing to do
local terminals = {cancelled = cancelled, deadline = past_deadline, queue_timeout = past_queue_timeout}
allow_out_of_memory()

local function history_of(record)
    if not record.claimed_us then return '' end
    local appended = record.appended_us or record.claimed_us
    return (record.history or '') .. record.claimed_us .. ',' .. appended .. ',' .. record.last .. ';'
end

-- Whether another engine than this worker's is to go on with what the log holds, and there is one.
local function is_for_another(record)
    if record.last == '0' or not record.fingerprint or record.fingerprint == fingerprint then return false end
    return string.find('\n' .. served .. '\n', '\n' .. record.fingerprint .. '\n', 1, true) ~= nil
end

-- Whether the log's newest entry is the one that the record says.
local function has_log(id, record)
    local newest = attempt('XREVRANGE', log_key(id), '+', '-', 'COUNT', 1)
    if not newest then return false end
    if #newest == 0 then return record.last == '0' end
    return newest[1][1] == record.last .. '-0'
end

local function claim(id, nonce, queue, entry)
    local record = read(id, 'epoch', 'fence', 'appended_us', 'history', 'cancelled', 'cancel_at',
        'deadline', 'queue_deadline', 'fingerprint', unpack(CONCLUDE))
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
    check(record)
    if not has_log(id, record) then
        conclude(id, record, FAILED, log_lost, retention_ms)
        return {'OVER', FAILED}
    end
    if is_for_another(record) then return {'ELSEWHERE', record.fingerprint} end
    local epoch = tonumber(record.epoch) + 1
    local fence = digits(epoch) .. ':' .. nonce
    redis.call('HSET', record_key(id), 'state', RUNNING, 'epoch', epoch, 'fence', fence, 'owner', worker,
        'lease', NOW + lease_ms, 'history', history_of(record), 'claimed_us', NOW_US)
    redis.call('HDEL', record_key(id), 'appended_us', 'queue_deadline')
    if not record.claimed_us then redis.call('HSET', record_key(id), 'started_us', NOW_US) end
    if record.last == '0' then redis.call('HSET', record_key(id), 'fingerprint', fingerprint) end
    count_depth(record, -1, -tonumber(record.size))
    look_at(id, NOW + lease_ms)
    return {'CLAIMED', fence, epoch, redis.call('HGETALL', record_key(id))}
end

local function each(id, nonce, queue, entry)
    local reply = guarded(claim, id, nonce, queue, entry)
    -- A damaged generation must not be read again and again.
    if reply == 'DAMAGED' then remove_entry(queue, model, entry) end
    return reply
end

return for_each(each)
