-- Renews a worker's leases, late too if nobody took over.
--
-- ARGV: lease in milliseconds, then per generation: id, fence
-- Replies {now in microseconds, one of these per generation...}: OK, CANCEL (renewed, but to be cancelled), or FENCED.
local lease = tonumber(ARGV[1])
local replies = {NOW_US}
allow_out_of_memory()

for position = 2, #ARGV, 2 do
    local id, fence = ARGV[position], ARGV[position + 1]
    local record = read(id, 'fence', unpack(UNWANTED))
    local reply = 'FENCED'
    if record and record.state == RUNNING and record.fence == fence then
        redis.call('HSET', record_key(id), 'lease', NOW + lease)
        reply = is_unwanted(id, record, lease) and 'CANCEL' or 'OK'
    end
    replies[#replies + 1] = reply
end
return replies
