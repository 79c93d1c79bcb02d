-- Sets, renews or takes away a gateway's reader lease on generations. When the last one is taken away, that starts what the
-- disconnect policy says.
--
-- Arguments: reader, tenant, lease_ms number, retention_ms number, cancelled
-- lease_ms 0: the gateway reads it no more. tenant is whose they must be, * for whose a reader has been let in before. cancelled is the terminal record of a cancelled one.
-- Replies {now in microseconds, one of these per id...}: {state, last sequence, 1 if it ended by this call}, or GONE.
allow_out_of_memory()

local function each(id)
    local record = read(id, 'tenant', 'policy', 'grace', 'owner', unpack(CONCLUDE))
    if not record or is_foreign(record, tenant) then return 'GONE' end
    if record.state > RUNNING then return {record.state, tonumber(record.last), 0} end
    -- What waits must have its entry in the queue, or it would wait for ever.
    if record.state == QUEUED then
        check(record)
        local key = queue_key(record.queue, record.model)
        if #on_shared('XRANGE', key, record.entry, record.entry) == 0 then requeue(id, record) end
    end
    local readers, latest = set_reader(record.watchers, reader, lease_ms)
    local cancel_at = cancel_instant(tonumber(record.policy), tonumber(record.grace), latest)
    redis.call('HSET', record_key(id), 'watchers', readers)
    if lease_ms > 0 then redis.call('HSET', record_key(id), 'watch', lease_ms) end
    record.watchers = readers
    if not cancel_at then return {record.state, tonumber(record.last), 0} end
    if cancel_at <= NOW and record.state == QUEUED then
        conclude(id, record, CANCELLED, cancelled, retention_ms)
        return {CANCELLED, tonumber(record.last), 1}
    end
    redis.call('HSET', record_key(id), 'cancel_at', cancel_at)
    look_at(id, cancel_at)
    if cancel_at <= NOW then tell_owner(record, id) end
    return {record.state, tonumber(record.last), 0}
end

return for_each(each)
