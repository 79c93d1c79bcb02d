-- Renews a worker's leases, late too if nobody took over.
--
-- Arguments: lease_ms number
-- Replies {now in microseconds, one of these per generation...}: OK, CANCEL (renewed, but to be cancelled), or FENCED.
allow_out_of_memory()

local function each(id, fence)
    local record = read(id, 'fence', unpack(UNWANTED))
    if not record or record.state ~= RUNNING or record.fence ~= fence then return 'FENCED' end
    redis.call('HSET', record_key(id), 'lease', NOW + lease_ms)
    return is_unwanted(id, record, lease_ms) and 'CANCEL' or 'OK'
end

return for_each(each)
