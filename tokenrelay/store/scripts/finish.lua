-- Ends generations that the caller owns.
--
-- ARGV: retention in milliseconds, then per generation: id, fence, last sequence, terminal state, terminal record
-- Replies {now in microseconds, one of these per generation...}: OK (by this call or by an earlier one), FENCED, or GAP.
local retention = tonumber(ARGV[1])
local replies = {NOW_US}

for position = 2, #ARGV, 5 do
    local id, fence, last, state, terminal = unpack(ARGV, position, position + 4)
    local record = read(id, 'fence', unpack(CONCLUDE))
    local reply
    if not record or record.fence ~= fence then
        reply = 'FENCED'
    elseif record.state > RUNNING then
        reply = record.state == tonumber(state) and 'OK' or 'FENCED'
    elseif record.last ~= last then
        reply = 'GAP'
    else
        conclude(id, record, tonumber(state), terminal, retention)
        reply = 'OK'
    end
    replies[#replies + 1] = reply
end
return replies
