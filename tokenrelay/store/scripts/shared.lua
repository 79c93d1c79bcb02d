-- What every script shares; it is put in front of each. Keys and their fields are described in keys.py.
--
-- KEYS[1] is the shard's prefix, "tokenrelay:{shard}:". All keys of a generation share it, and with it their hash slot,
-- so the scripts build the other names from it.
--
-- Time is Redis' own. Numbers that go into a string by `..` would lose digits, so instants are formatted by `digits`.

local PREFIX = KEYS[1]
local GROUP = 'workers'
local QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED, EXPIRED = 1, 2, 3, 4, 5, 6  -- tokenrelay.v1.GenerationState; 3 to 6 are terminal
local RUNNING_TEXT = tostring(RUNNING)                              -- as a record has it
local CANCEL, CANCEL_AFTER_GRACE, DETACH = 1, 2, 3                  -- tokenrelay.v1.DisconnectPolicy

local clock = redis.call('TIME')
local NOW_US = clock[1] * 1000000 + clock[2]
local NOW = math.floor(NOW_US / 1000)

local function digits(number)
    return string.format('%.0f', number)
end

local function record_key(id) return PREFIX .. 'generation:' .. id end
local function log_key(id) return PREFIX .. 'log:' .. id end
local function depth_key(model) return PREFIX .. 'depth:' .. model end
local function queue_key(queue, model) return PREFIX .. queue .. ':' .. model end
local function dead_key(model) return PREFIX .. 'dead:' .. model end
local function idempotency_key(hash) return PREFIX .. 'idempotency:' .. hash end
local DUE = PREFIX .. 'due'
local FINISHED = PREFIX .. 'finished'

-- What a damaged generation makes a script fail of: a key of another type, a field that is missing or is no number, an entry
-- in the log that is none of ours. All other errors are about Redis itself: the whole call fails of them and is repeated.
local DAMAGE = {'WRONGTYPE', 'attempt to ', 'bad argument', 'not an integer', 'equal or smaller', 'Invalid stream ID'}

local function is_damage(failure)
    local text = type(failure) == 'table' and failure.err or tostring(failure)
    for _, mark in ipairs(DAMAGE) do
        if string.find(text, mark, 1, true) then return true end
    end
    return false
end

-- Does one item of a batch. One damaged generation must not fail the others of its frame.
local function guarded(each, ...)
    local is_done, reply = pcall(each, ...)
    if is_done then return reply end
    if is_damage(reply) then return 'DAMAGED' end
    return error(reply)
end

-- Runs a command on a generation's own key. Returns nil if what is there is none of ours.
local function attempt(...)
    local reply = redis.pcall(...)
    if type(reply) ~= 'table' or not reply.err then return reply end
    if is_damage(reply) then return nil end
    return error(reply)
end

-- Runs a command on a key that many generations share. What has another type there is set aside, or nothing would work any
-- more; reap reports it.
local function on_shared(command, key, ...)
    local reply = redis.pcall(command, key, ...)
    if type(reply) ~= 'table' or not reply.err then return reply end
    if not string.find(reply.err, 'WRONGTYPE', 1, true) then return error(reply) end
    local aside = PREFIX .. 'foreign:' .. string.sub(key, #PREFIX + 1) .. ':' .. digits(NOW_US)
    redis.call('RENAME', key, aside)
    redis.pcall('HSET', PREFIX .. 'foreign', key, aside)
    return redis.call(command, key, ...)
end

-- Returns the named fields of a record as a table, or nil if there is no such record. Absent fields are nil.
local function read(id, ...)
    local values = redis.call('HMGET', record_key(id), 'state', ...)
    if not values[1] then return nil end
    local record = {state = tonumber(values[1])}
    if not record.state then error('attempt to read a damaged record') end
    for position, name in ipairs({...}) do
        record[name] = values[position + 1] or nil
    end
    return record
end

-- Tells whether a generation belongs to another tenant than the caller's. It is answered then exactly as none is. ANY_TENANT
-- stands for a caller who was let in before. Records from before there were tenants belong to the tenant ''.
local ANY_TENANT = '*'
local function is_foreign(record, tenant)
    return tenant ~= ANY_TENANT and (record.tenant or '') ~= tenant
end

-- Opens the way for writes when Redis is out of memory: after one command that needs none, a script may go on.
-- What was accepted must be able to finish.
local function allow_out_of_memory()
    redis.call('PERSIST', PREFIX .. 'nothing')
end

-- Protobuf's wire format, as much as a FeedEntry needs that brings a terminal record; those with tokens are made by the worker.
local function varint(number)
    local out = ''
    while number >= 128 do
        out = out .. string.char(number % 128 + 128)
        number = math.floor(number / 128)
    end
    return out .. string.char(number)
end

-- The text of one FeedFrame.entries that brings a generation's end.
local function feed_end(id, sequence, terminal)
    local number, size = varint(sequence), varint(#terminal)
    local instant = varint(NOW_US)
    local length = 5 + #id + #number + #size + #terminal + #instant         -- an id is shorter than 128 bytes
    return '\10' .. varint(length) .. '\10' .. string.char(#id) .. id .. '\16' .. number .. '\34' .. size .. terminal
        .. '\40' .. instant
end

-- Readers are kept as "gateway=until gateway=until", until in milliseconds. One whose name ends in "!" wants the end only.
local function each_reader(readers)
    return string.gmatch(readers or '', '([^ =]+)=(%d+)')
end

local function publish_end(readers, bytes)
    for gateway in each_reader(readers) do
        redis.call('PUBLISH', 'tokenrelay:feed:' .. string.gsub(gateway, '!$', ''), bytes)
    end
end

-- Returns the readers after one gateway's lease was set (lease > 0) or taken away (lease = 0), and the last instant
-- at which anyone reads. Leases that ran out are dropped.
local function set_reader(readers, gateway, lease)
    local kept, latest = {}, NOW
    for name, till in each_reader(readers) do
        if name ~= gateway and tonumber(till) > NOW then
            kept[#kept + 1] = name .. '=' .. till
            latest = math.max(latest, tonumber(till))
        end
    end
    if lease > 0 then
        kept[#kept + 1] = gateway .. '=' .. digits(NOW + lease)
        latest = math.max(latest, NOW + lease)
    end
    return table.concat(kept, ' '), latest
end

-- Returns when a generation is to be cancelled if nobody reads it after `latest`, or nil for never.
local function cancel_instant(policy, grace, latest)
    if policy == DETACH then return nil end
    if policy == CANCEL_AFTER_GRACE then return latest + grace end
    return latest
end

-- Makes sure that reap looks at a generation at an instant or before.
local function look_at(id, instant)
    if instant then on_shared('ZADD', DUE, 'LT', instant, id) end
end

-- Takes a queue entry out for good.
local function remove_entry(queue, model, entry)
    local key = queue_key(queue, model)
    on_shared('XACK', key, GROUP, entry)
    redis.call('XDEL', key, entry)
end
