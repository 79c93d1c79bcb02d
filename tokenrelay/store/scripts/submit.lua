-- Accepts a generation: its record, its job and its idempotency key in one step. Accepted means that this returned CREATED.
--
-- Arguments: id, tenant, key_id, model, n, job, spec, size number, request_hash, idempotency, queue_timeout_ms number, time_limit_ms number,
--     policy number, grace_ms number, reader, reader_lease_ms number, most_generations number, most_bytes number,
--     accept_below number, engine_deaths,
--     limits, estimate number, most_tokens number
-- size counts the job's and the spec's bytes. idempotency is the hash of the key and its tenant, '' for none. Limits in milliseconds from now, and
-- reader, the gateway that reads it from now on, may be missing. The last ones but one bound the queue and, as a share of
-- maxmemory, what is accepted at all. With engine_deaths it begins as a suspect. limits is a JSON
-- array of the tenant's limits and the key's, '' without a tenant; estimate are the prompt's tokens, as far as they are known,
-- and most_tokens what it may generate, absent without a bound.
-- Replies {now in microseconds, status, ...}:
--   CREATED, id
--   JOINED, id            the idempotency key belongs to this very request; nobody reads it by this call
--   CONFLICT              the idempotency key belongs to another request
--   FULL, generations, bytes
--   MEMORY, used, maximum
--   QUOTA, tenant or key, the limit's name, the limit, milliseconds to wait: -1 if it can never fit, -2 if nobody can tell
-- CREATED has two further values for a tenant with a limit of tokens a minute: the limit and what is left of it.
-- A retry of this very call finds its own record.
if redis.call('EXISTS', record_key(id)) == 1 then return {NOW_US, 'CREATED', id} end

if idempotency ~= '' then
    local taken = on_shared('GET', idempotency_key(idempotency))
    if taken then
        local other = read(taken, 'request_hash', 'tenant')
        if other and is_foreign(other, tenant) then other = nil end
        if other and other.request_hash ~= request_hash then return {NOW_US, 'CONFLICT'} end
        if other then return {NOW_US, 'JOINED', taken} end
    end
end

local depth = on_shared('HMGET', depth_key(model), 'generations', 'bytes')
local generations, bytes = tonumber(depth[1] or 0) or 0, tonumber(depth[2] or 0) or 0
if generations + 1 > most_generations or bytes + size > most_bytes then
    return {NOW_US, 'FULL', generations, bytes}
end

local memory = redis.call('INFO', 'memory')
local used, maximum = tonumber(string.match(memory, 'used_memory:(%d+)')), tonumber(string.match(memory, 'maxmemory:(%d+)'))
if maximum > 0 and used + size > maximum * accept_below then return {NOW_US, 'MEMORY', used, maximum} end

local reserved, accounts = 0, {}
if tenant ~= '' then
    local given = cjson.decode(limits)
    for number, key in ipairs(account_keys(tenant, key_id)) do
        accounts[number] = open_account(number == 1 and 'tenant' or 'key', key, model, given[number])
    end
    reserved = to_reserve(accounts, n, estimate, most_tokens)
    for _, account in ipairs(accounts) do
        local name, wait = refusal(account, estimate, reserved, most_generations)
        if name then return {NOW_US, 'QUOTA', account.scope, name, account.limits[name], wait} end
    end
end

local readers, latest = '', NOW
if reader ~= '' then readers, latest = set_reader('', reader, reader_lease_ms) end
local cancel_at = cancel_instant(policy, grace_ms, latest)

local entry = add_entry('jobs', model, id, n, engine_deaths ~= '' and engine_deaths or nil)
local fields = {
    'state', QUEUED, 'model', model, 'n', n, 'job', job, 'spec', spec, 'size', size, 'request_hash', request_hash,
    'queue', 'jobs', 'entry', entry, 'last', 0, 'epoch', 0, 'policy', policy, 'grace', grace_ms,
    'watchers', readers, 'submitted_us', NOW_US,
}
local function add(name, value)
    fields[#fields + 1] = name
    fields[#fields + 1] = value
end
if tenant ~= '' then
    add('tenant', tenant)
    add('reserved', digits(reserved))
    add('estimate', digits(estimate))
end
if key_id ~= '' then add('key_id', key_id) end
if queue_timeout_ms then add('queue_deadline', NOW + queue_timeout_ms) end
if time_limit_ms then add('deadline', NOW + time_limit_ms) end
if cancel_at then add('cancel_at', cancel_at) end
if reader ~= '' then add('watch', reader_lease_ms) end
if engine_deaths ~= '' then add('engine_deaths', engine_deaths) end
if idempotency ~= '' then
    add('idempotency', idempotency)
    redis.call('SET', idempotency_key(idempotency), id)
end
redis.call('HSET', record_key(id), unpack(fields))
count_depth({model = model, tenant = tenant ~= '' and tenant or nil, key_id = key_id}, 1, size)
for _, account in ipairs(accounts) do reserve(account, reserved) end
look_at(id, queue_timeout_ms and NOW + queue_timeout_ms)
look_at(id, time_limit_ms and NOW + time_limit_ms)
look_at(id, cancel_at)
local tightest = tightest_tokens(accounts)
if tightest then return {NOW_US, 'CREATED', id, tightest.limits.tokens_per_minute, math.floor(tightest.tokens)} end
return {NOW_US, 'CREATED', id}
