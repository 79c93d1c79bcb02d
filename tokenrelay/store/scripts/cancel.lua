-- Cancels a generation: at once if it waits, through its owner if it runs. A terminal one stays as it is.
--
-- Arguments: id, tenant, retention_ms number, cancelled
-- cancelled is the terminal record of a cancelled one.
-- Replies {now in microseconds, state, 1 if it ended by this call}, state 0 if the tenant has no such generation.
allow_out_of_memory()
local record = read(id, 'owner', 'tenant', unpack(CONCLUDE))
if not record or is_foreign(record, tenant) then return {NOW_US, 0, 0} end
if record.state > RUNNING then return {NOW_US, record.state, 0} end
if record.state == QUEUED then
    conclude(id, record, CANCELLED, cancelled, retention_ms)
    return {NOW_US, CANCELLED, 1}
end
redis.call('HSET', record_key(id), 'cancelled', 1)
look_at(id, NOW)
tell_owner(record, id)
return {NOW_US, RUNNING, 0}
