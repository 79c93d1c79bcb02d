-- Keeps the registry of workers. KEYS[1] is the registry's prefix, "tokenrelay:{registry}:".
--
-- Arguments: worker, model, announcement, keep_ms number
-- The announcement is a tokenrelay.store.v1.WorkerAnnouncement; if it is empty the worker leaves. A silent worker is kept for keep_ms.
-- Replies {now in microseconds, keys set aside, as what...}.
local workers, models = PREFIX .. 'workers', PREFIX .. 'models'
allow_out_of_memory()

-- A value is the instant in milliseconds, a space, and the announcement.
if announcement == '' then
    local last = on_shared('HGET', workers, worker)
    last = last and string.match(last, '^%d+ (.*)$')
    if last then on_shared('HSET', models, model, digits(NOW) .. ' ' .. last) end
    redis.call('HDEL', workers, worker)
else
    on_shared('HSET', workers, worker, digits(NOW) .. ' ' .. announcement)
    on_shared('HSET', models, model, digits(NOW) .. ' ' .. announcement)
end

local all = redis.call('HGETALL', workers)
for position = 1, #all, 2 do
    -- What is no announcement, or one of a far future, is none of ours.
    local seen = tonumber(string.match(all[position + 1], '^(%d+) '))
    if not seen or seen < NOW - keep_ms or seen > NOW + keep_ms then redis.call('HDEL', workers, all[position]) end
end
local aside = on_shared('HGETALL', PREFIX .. 'foreign')
redis.call('DEL', PREFIX .. 'foreign')
return {NOW_US, unpack(aside)}
