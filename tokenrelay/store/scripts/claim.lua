-- Makes a worker the owner of generations whose queue entries it holds.
--
-- ARGV: model, fingerprint of the worker's engine, worker, lease in milliseconds, retention in milliseconds, terminal
--       records of a cancelled one, one past its deadline and one past its queue timeout, then per generation: id, nonce, queue, entry
-- Replies {now in microseconds, one of these per generation...}:
--   {CLAIMED, fence, epoch, all fields and values of the record}   the same nonce gets the same fence again
--   {HELD}       another worker owns it
--   {OVER, state}  it ended by this call, since it is cancelled or expired
--   {OVER, 0}    it is terminal or gone, or the entry is an old one; there is nothing to do
local model, fingerprint, worker = ARGV[1], ARGV[2], ARGV[3]
local lease, retention = tonumber(ARGV[4]), tonumber(ARGV[5])
local terminals = {cancelled = ARGV[6], deadline = ARGV[7], queue_timeout = ARGV[8]}
local replies = {NOW_US}
allow_out_of_memory()

local function history_of(record)
    if not record.claimed_us then return '' end
    local appended = record.appended_us or record.claimed_us
    return (record.history or '') .. record.claimed_us .. ',' .. appended .. ',' .. record.last .. ';'
end

local function claim(id, nonce, queue, entry)
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
    local state, terminal = overdue(id, record, terminals, lease)
    if state then
        conclude(id, record, state, terminal, retention)
        return {'OVER', state}
    end
    local epoch = tonumber(record.epoch) + 1
    local fence = digits(epoch) .. ':' .. nonce
    redis.call('HSET', record_key(id), 'state', RUNNING, 'epoch', epoch, 'fence', fence, 'owner', worker,
        'lease', NOW + lease, 'history', history_of(record), 'claimed_us', NOW_US)
    redis.call('HDEL', record_key(id), 'appended_us', 'queue_deadline')
    if not record.claimed_us then redis.call('HSET', record_key(id), 'started_us', NOW_US) end
    if record.last == '0' then redis.call('HSET', record_key(id), 'fingerprint', fingerprint) end
    count_depth(record.model, -1, -tonumber(record.size))
    look_at(id, NOW + lease)
    return {'CLAIMED', fence, epoch, redis.call('HGETALL', record_key(id))}
end

for position = 9, #ARGV, 4 do
    local id, nonce, queue, entry = unpack(ARGV, position, position + 3)
    replies[#replies + 1] = claim(id, nonce, queue, entry)
end
return replies
