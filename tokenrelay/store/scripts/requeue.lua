-- Puts generations back to the front of their queue. One whose engine has died on it too often is set aside instead.
--
-- Arguments: model, retention_ms number
-- With a fence: the caller owns the generation and gives it up. If its engine died while it was there, died is 1, else ''. If
--     it ran alone then, terminal and letter, a tokenrelay.store.v1.DeadLetter, say what becomes of it unless that was the
--     first time; else both are ''.
-- With fence '': queue and entry name what was read and never claimed.
-- Replies {now in microseconds, one of these per generation...}:
--   OK      it waits again
--   DEAD    it has ended as a dead letter, by this call or by an earlier one
--   FENCED  there is nothing to requeue
local DEADLY = 2  -- engine deaths without a token in between, the last of them alone
allow_out_of_memory()

-- Counts an engine's death against a generation, unless this attempt of it gave a token. Returns whether it was not the first.
local function count_death(id, record)
    if record.appended_us then return false end
    record.engine_deaths = tonumber(record.engine_deaths or 0) + 1
    redis.call('HSET', record_key(id), 'engine_deaths', record.engine_deaths)
    return record.engine_deaths >= DEADLY
end

local function each(id, fence, queue, entry, died, terminal, letter)
    local record = read(id, 'fence', 'appended_us', 'deadline', 'queue_deadline', 'cancelled', 'cancel_at', unpack(CONCLUDE))
    local ours = record and fence ~= '' and record.fence == fence
    local unclaimed = record and fence == '' and record.state == QUEUED and record.queue == queue and record.entry == entry
    if ours and record.state == RUNNING and died ~= '' and count_death(id, record) and terminal ~= '' then
        conclude(id, record, FAILED, terminal, retention_ms)
        on_shared('XADD', dead_key(model), '*', 'id', id, 'letter', letter)
        return 'DEAD'
    elseif (ours and record.state == RUNNING) or unclaimed then
        requeue(id, record)
        record.state = QUEUED
        look_at(id, next_look(record, 0))
        return 'OK'
    elseif ours and record.state == FAILED and tonumber(record.engine_deaths or 0) >= DEADLY then
        return 'DEAD'
    elseif fence == '' and (not record or record.entry ~= entry) then
        remove_entry(queue, model, entry)
    end
    return 'FENCED'
end

return for_each(each)
