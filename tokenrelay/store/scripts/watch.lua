-- Sets or takes away a gateway's watch on generations. The last one's leaving starts what the disconnect policy says.
--
-- ARGV: gateway, lease in milliseconds (0: leaves), retention in milliseconds, terminal record of a cancelled one, then ids
-- Replies {now in microseconds, one of these per id...}: {state, last sequence, 1 if it ended by this call}, or GONE.
local gateway, lease, retention, cancelled = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local replies = {NOW_US}

local function watch(id)
    local record = read(id, 'policy', 'grace', 'owner', unpack(CONCLUDE))
    if not record then return 'GONE' end
    if record.state > RUNNING then return {record.state, tonumber(record.last), 0} end
    local watchers, latest = set_watcher(record.watchers, gateway, lease)
    local cancel_at = cancel_instant(tonumber(record.policy), tonumber(record.grace), latest)
    allow_out_of_memory()
    redis.call('HSET', record_key(id), 'watchers', watchers)
    if lease > 0 then redis.call('HSET', record_key(id), 'watch', lease) end
    record.watchers = watchers
    if not cancel_at then return {record.state, tonumber(record.last), 0} end
    if cancel_at <= NOW and record.state == QUEUED then
        conclude(id, record, CANCELLED, cancelled, retention)
        return {CANCELLED, tonumber(record.last), 1}
    end
    redis.call('HSET', record_key(id), 'cancel_at', cancel_at)
    look_at(id, cancel_at)
    if cancel_at <= NOW then tell_owner(record, id) end
    return {record.state, tonumber(record.last), 0}
end

for position = 5, #ARGV do
    replies[#replies + 1] = watch(ARGV[position])
end
return replies
