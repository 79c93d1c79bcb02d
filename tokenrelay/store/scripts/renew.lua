-- Renews a worker's leases, late too if nobody took over.
--
-- Arguments: lease_ms number
-- Replies {now in microseconds, one of these per generation...}: OK, FENCED,
-- CANCEL (renewed, but to be cancelled), or EXPIRED (renewed, but past its deadline, so that its owner is to end it).
allow_out_of_memory()

local function each(id, fence)
    local record = read(id, 'fence', 'deadline', unpack(UNWANTED))
    if not record or record.state ~= RUNNING or record.fence ~= fence then return 'FENCED' end
    redis.call('HSET', record_key(id), 'lease', NOW + lease_ms)
    if passed(record.deadline) then return 'EXPIRED' end
    return is_unwanted(id, record, lease_ms) and 'CANCEL' or 'OK'
end

return for_each(each)
