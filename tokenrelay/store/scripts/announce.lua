-- Keeps the registry of workers. KEYS[1] is the registry's prefix, "tokenrelay:{registry}:".
--
-- ARGV: worker, model, a tokenrelay.store.v1.WorkerAnnouncement (empty: the worker leaves), milliseconds a silent worker is kept
-- Replies {now in microseconds}.
local worker, model, announcement, keep = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
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
    if tonumber(string.match(all[position + 1], '^%d+')) < NOW - keep then redis.call('HDEL', workers, all[position]) end
end
return {NOW_US}
