-- Appends a frame: entries of many generations, each checked against its generation's fence on its own.
--
-- Arguments: lease_ms number
-- An entry is a tokenrelay.store.v1.LogEntry; before and after are the log's sequences before and after it.
-- Replies {now in microseconds, one of these per entry...}:
--   OK         it is in the log, by this call or by an earlier one; the lease is renewed
--   CANCEL     the same, and the generation is to be cancelled
--   FENCED     another worker owns the generation, or it is terminal or gone; nothing was written
--   GAP        the log does not stand at the sequence before; nothing was written
--
-- This runs for every token, so it reads by position, formats the instants once, and looks closer only where it must.
local feeds = {}
local lease_end, now_us = digits(NOW + lease_ms), digits(NOW_US)
local call, match = redis.call, string.match
allow_out_of_memory()

local function feed_to(gateway, entry)
    local feed = feeds[gateway]
    if feed then
        feed[#feed + 1] = entry
    else
        feeds[gateway] = {entry}
    end
end

local function publish(readers, id, after, entry)
    local feed = feed_entry(id, tonumber(after), LOG_ENTRY, entry)
    local only = match(readers, '^([^ =!]+)=%d+$')
    if only then return feed_to(only, feed) end
    for gateway in each_reader(readers) do
        if string.sub(gateway, -1) ~= '!' then feed_to(gateway, feed) end
    end
end

local function each(id, fence, before, after, entry)
    local key = record_key(id)
    local record = call('HMGET', key, 'state', 'fence', 'last', 'watchers', 'cancelled', 'cancel_at', 'engine_deaths')
    local last = record[3]
    if record[2] ~= fence then return 'FENCED' end
    if record[1] ~= RUNNING_TEXT then
        -- The retry of a call that also ended the generation.
        return tonumber(last) >= tonumber(after) and 'OK' or 'FENCED'
    end
    if last == before then
        call('XADD', log_key(id), after .. '-0', 'e', entry)
        if before == '0' then
            call('HSET', key, 'last', after, 'lease', lease_end, 'appended_us', now_us, 'first_us', now_us)
        else
            call('HSET', key, 'last', after, 'lease', lease_end, 'appended_us', now_us)
        end
        -- What gives tokens is no suspect any more.
        if record[7] then call('HDEL', key, 'engine_deaths') end
        if record[4] and record[4] ~= '' then publish(record[4], id, after, entry) end
        local cancelled, cancel_at = record[5], record[6]
        if not cancelled and not (cancel_at and tonumber(cancel_at) <= NOW) then return 'OK' end
        return is_unwanted(id, {cancelled = cancelled or nil, cancel_at = cancel_at or nil}, lease_ms) and 'CANCEL' or 'OK'
    end
    if tonumber(last) >= tonumber(after) then
        call('HSET', key, 'lease', lease_end)
        return 'OK'
    end
    return 'GAP'
end

local replies = for_each(each)
for gateway, feed in pairs(feeds) do
    call('PUBLISH', 'tokenrelay:feed:' .. gateway, table.concat(feed))
end
return replies
