-- How a generation goes from one state to another, and when it must; put behind shared.lua and accounts.lua in front of each
-- script.

local function count_depth(record, generations, bytes)
    local model = record.model
    count_waiting(record, generations)
    for name, change in pairs({generations = generations, bytes = bytes}) do
        local counted = redis.pcall('HINCRBY', depth_key(model), name, change)
        if type(counted) == 'table' and counted.err then
            -- Most likely no number. What waits is counted anew from nothing, since a count is a bound and no promise.
            on_shared('HDEL', depth_key(model), name)
            redis.call('HINCRBY', depth_key(model), name, math.max(0, change))
        elseif counted < 0 then
            -- It was counted anew while something waited. Kept, it would hide for ever as many that wait later.
            redis.call('HSET', depth_key(model), name, 0)
        end
    end
end

-- Fields that conclude and requeue need.
local CONCLUDE = {'model', 'n', 'last', 'queue', 'entry', 'size', 'watchers', 'idempotency', 'engine_deaths',
    'tenant', 'key_id', 'reserved', 'estimate', 'claimed_us'}

-- Fails, before anything is written, on a record that lacks what concluding and requeueing need.
local function check(record)
    for _, name in ipairs({'model', 'n', 'queue', 'entry'}) do
        if not record[name] then error('attempt to use a record without ' .. name) end
    end
    if not tonumber(record.last) or not tonumber(record.size) then error('attempt to use a record without its counts') end
end

-- Ends a generation: its terminal record, its state, the expiry of all its keys, its queue entry's end, and its account.
-- prompt and cached are the engine's counts of the prompt's tokens; nil if they are not known.
local function conclude(id, record, state, terminal, retention, prompt, cached)
    allow_out_of_memory()
    check(record)
    -- A log that is none of ours stays as it is. Readers learn from the record that there ought to be more.
    attempt('XADD', log_key(id), record.last .. '-1', 't', terminal, 'at', NOW_US)
    redis.call('HSET', record_key(id), 'state', state, 'finished_us', NOW_US, 'expires', NOW + retention)
    redis.call('HDEL', record_key(id), 'spec', 'cancelled', 'cancel_at', 'watchers', 'watch', 'lease', 'queue_deadline')
    redis.call('PEXPIRE', record_key(id), retention)
    redis.call('PEXPIRE', log_key(id), retention)
    if record.idempotency then redis.call('PEXPIRE', idempotency_key(record.idempotency), retention) end
    on_shared('ZREM', DUE, id)
    on_shared('ZADD', FINISHED, NOW, id)
    remove_entry(record.queue, record.model, record.entry)
    if record.state == QUEUED then count_depth(record, -1, -tonumber(record.size)) end
    settle(record, state, prompt, cached)
    publish_end(record.watchers, feed_end(id, tonumber(record.last), terminal))
end

-- Adds a queue entry and returns its id. A suspect's tells of the deaths, since it is to run alone.
local function add_entry(queue, model, id, n, engine_deaths)
    local fields = {'id', id, 'n', n}
    if engine_deaths then fields = {'id', id, 'n', n, 'engine_deaths', engine_deaths} end
    return on_shared('XADD', queue_key(queue, model), '*', unpack(fields))
end

-- Puts a generation to the front of its queue.
local function requeue(id, record)
    allow_out_of_memory()
    check(record)
    remove_entry(record.queue, record.model, record.entry)
    local entry = add_entry('returned', record.model, id, record.n, record.engine_deaths)
    redis.call('HSET', record_key(id), 'state', QUEUED, 'queue', 'returned', 'entry', entry)
    redis.call('HDEL', record_key(id), 'lease', 'owner', 'fence')
    if record.state == RUNNING then count_depth(record, 1, tonumber(record.size)) end
end

-- Tells the owner that something about a generation is to be looked at: it renews and so learns what.
local function tell_owner(record, id)
    if record.owner then redis.call('PUBLISH', 'tokenrelay:worker:' .. record.owner, id) end
end

local function passed(instant)
    return instant ~= nil and tonumber(instant) <= NOW
end

-- Since when all have been able to reach Redis. Before, nobody could renew, so that silence says nothing.
-- Reap notes several times a lease that somebody is there; half a lease without means that Redis, or everybody, was away.
local back
local function back_since(lease)
    if not back then
        local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
        local known = on_shared('HMGET', PREFIX .. 'server', 'run_id', 'since', 'seen')
        back = tonumber(known[2] or 0) or 0
        if known[1] ~= run_id or NOW - (tonumber(known[3] or 0) or 0) > lease / 2 then
            back = NOW
            redis.call('HSET', PREFIX .. 'server', 'run_id', run_id, 'since', NOW, 'seen', NOW)
        end
    end
    return back
end

-- Fields that is_unwanted needs.
local UNWANTED = {'cancelled', 'cancel_at'}

-- Tells whether a generation is to be cancelled: because somebody said so, or because its last reader is gone.
local function is_unwanted(id, record, lease)
    if record.cancelled then return true end
    if not passed(record.cancel_at) then return false end
    -- A reader that left with a word is none any more. One whose lease ran out may only have been unable to renew, and
    -- one that has a time of grace may have been unable to come back.
    local kept = read(id, 'watchers', 'watch', 'policy', 'grace')  -- seldom needed, and this is asked for every token
    local needed = 0
    if kept.watchers ~= '' then needed = tonumber(kept.watch or 0) end
    if tonumber(kept.policy) == CANCEL_AFTER_GRACE then needed = needed + tonumber(kept.grace) end
    return needed == 0 or NOW >= back_since(lease) + needed
end

-- Why a queued generation may not be started any more: its terminal state and record, or nil if it may.
local function overdue(id, record, terminals, lease)
    if passed(record.deadline) then return EXPIRED, terminals.deadline end
    if is_unwanted(id, record, lease) then return CANCELLED, terminals.cancelled end
    if passed(record.queue_deadline) then return EXPIRED, terminals.queue_timeout end
    return nil
end

-- The earliest instant at which something must be decided about a generation, or nil.
local function next_look(record, lease)
    if record.cancelled then return NOW end
    local limit, deadline = record.queue_deadline, tonumber(record.deadline or math.huge)
    if record.state == RUNNING then
        -- Its owner ends it at the deadline. Only if it has not done so for a lease, somebody else does.
        limit, deadline = record.lease, deadline + lease
    end
    local earliest = math.min(deadline, tonumber(record.cancel_at or math.huge))
    earliest = math.min(earliest, tonumber(limit or math.huge))
    if earliest == math.huge then return nil end
    return earliest
end
