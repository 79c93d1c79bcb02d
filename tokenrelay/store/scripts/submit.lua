-- Accepts a generation: its record, its job and its idempotency key in one step. Accepted means that this returned CREATED.
--
-- ARGV: id, model, number of choices, job, spec, size in bytes, request hash, idempotency hash or '',
--       queue timeout, deadline (milliseconds from now; 0 for none), disconnect policy, grace in milliseconds,
--       watching gateway or '', watch lease in milliseconds,
--       most generations and most bytes in the queue, share of maxmemory above which nothing is accepted,
--       engine deaths that it is known for: '' for none, else it begins as a suspect
-- Replies {now in microseconds, status, ...}:
--   CREATED, id
--   JOINED, id            the idempotency key belongs to this very request; nobody watches it by this call
--   CONFLICT              the idempotency key belongs to another request
--   FULL, generations, bytes
--   MEMORY, used, maximum
local id, model, n, job, spec, size, request_hash, idempotency = unpack(ARGV, 1, 8)
local queue_timeout, time_limit, policy, grace = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
local gateway, watch_lease = ARGV[13], tonumber(ARGV[14])
local most_generations, most_bytes, watermark = tonumber(ARGV[15]), tonumber(ARGV[16]), tonumber(ARGV[17])
local engine_deaths = ARGV[18] ~= '' and ARGV[18] or nil

-- A retry of this very call finds its own record.
if redis.call('EXISTS', record_key(id)) == 1 then return {NOW_US, 'CREATED', id} end

if idempotency ~= '' then
    local taken = redis.call('GET', idempotency_key(idempotency))
    if taken then
        local other = read(taken, 'request_hash')
        if other and other.request_hash ~= request_hash then return {NOW_US, 'CONFLICT'} end
        if other then return {NOW_US, 'JOINED', taken} end
    end
end

local depth = redis.call('HMGET', depth_key(model), 'generations', 'bytes')
local generations, bytes = tonumber(depth[1] or 0), tonumber(depth[2] or 0)
if generations + 1 > most_generations or bytes + tonumber(size) > most_bytes then
    return {NOW_US, 'FULL', generations, bytes}
end

local memory = redis.call('INFO', 'memory')
local used, maximum = tonumber(string.match(memory, 'used_memory:(%d+)')), tonumber(string.match(memory, 'maxmemory:(%d+)'))
if maximum > 0 and used + tonumber(size) > maximum * watermark then return {NOW_US, 'MEMORY', used, maximum} end

local watchers, latest = '', NOW
if gateway ~= '' then watchers, latest = set_watcher('', gateway, watch_lease) end
local cancel_at = cancel_instant(policy, grace, latest)

local entry = add_entry('jobs', model, id, n, engine_deaths)
local fields = {
    'state', QUEUED, 'model', model, 'n', n, 'job', job, 'spec', spec, 'size', size, 'request_hash', request_hash,
    'queue', 'jobs', 'entry', entry, 'last', 0, 'epoch', 0, 'policy', policy, 'grace', grace,
    'watchers', watchers, 'submitted_us', NOW_US,
}
local function add(name, value)
    fields[#fields + 1] = name
    fields[#fields + 1] = value
end
if queue_timeout > 0 then add('queue_deadline', NOW + queue_timeout) end
if time_limit > 0 then add('deadline', NOW + time_limit) end
if cancel_at then add('cancel_at', cancel_at) end
if gateway ~= '' then add('watch', watch_lease) end
if engine_deaths then add('engine_deaths', engine_deaths) end
if idempotency ~= '' then
    add('idempotency', idempotency)
    redis.call('SET', idempotency_key(idempotency), id)
end
redis.call('HSET', record_key(id), unpack(fields))
count_depth(model, 1, tonumber(size))
look_at(id, queue_timeout > 0 and NOW + queue_timeout or nil)
look_at(id, time_limit > 0 and NOW + time_limit or nil)
look_at(id, cancel_at)
return {NOW_US, 'CREATED', id}
