-- Hands generations back to the front of their queue.
--
-- ARGV: model, then per generation: id, fence, queue, entry
--   with a fence: the caller owns it and gives it up
--   with fence '': an entry that was read but never claimed
-- Replies {now in microseconds, one of these per generation...}: OK, or FENCED if there is nothing to hand back.
local model = ARGV[1]
local replies = {NOW_US}

for position = 2, #ARGV, 4 do
    local id, fence, queue, entry = unpack(ARGV, position, position + 3)
    local record = read(id, 'fence', 'deadline', 'queue_deadline', 'cancelled', 'cancel_at', unpack(CONCLUDE))
    local reply = 'FENCED'
    local owned = record and fence ~= '' and record.state == RUNNING and record.fence == fence
    local unclaimed = record and fence == '' and record.state == QUEUED and record.queue == queue and record.entry == entry
    if owned or unclaimed then
        requeue(id, record)
        record.state = QUEUED
        look_at(id, next_look(record))
        reply = 'OK'
    elseif fence == '' and (not record or record.entry ~= entry) then
        remove_entry(queue, model, entry)
    end
    replies[#replies + 1] = reply
end
return replies
