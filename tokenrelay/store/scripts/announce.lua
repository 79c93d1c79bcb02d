-- Keeps the registry of workers. KEYS[1] is the registry's prefix, "tokenrelay:{registry}:".
--
-- Arguments: worker, model, announcement, keep_ms number
-- The announcement is a tokenrelay.store.v1.WorkerAnnouncement; if it is empty the worker leaves. A silent worker is kept for keep_ms.
-- Replies {now in microseconds}.
local workers, models = PREFIX .. 'workers', PREFIX .. 'models'
allow_out_of_memory()

-- A value is the instant in milliseconds, a space, and the announcement.
if announcement == '' then
    local last = redis.call('HGET', workers, worker)
    if last then redis.call('HSET', models, model, digits(NOW) .. ' ' .. string.match(last, '^%d+ (.*)$')) end
    redis.call('HDEL', workers, worker)
else
    redis.call('HSET', workers, worker, digits(NOW) .. ' ' .. announcement)
    redis.call('HSET', models, model, digits(NOW) .. ' ' .. announcement)
end

local all = redis.call('HGETALL', workers)
for position = 1, #all, 2 do
    if tonumber(string.match(all[position + 1], '^%d+')) < NOW - keep_ms then redis.call('HDEL', workers, all[position]) end
end
return {NOW_US}
