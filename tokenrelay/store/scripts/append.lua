-- Appends a frame: entries of many generations, each checked against its generation's fence on its own.
--
-- Arguments: lease_ms number
-- feed is one of a FeedFrame's entries, as readers get it; its last `size` bytes are the tokenrelay.store.v1.LogEntry. before
-- and after are the log's sequences before and after it.
-- Replies {now in microseconds, the item's number from 1, what became of it, another item's number...}. An item that is not
-- named is OK:
--   OK         it is in the log, by this call or by an earlier one; a third of its lease at most has passed
--   CANCEL     the same, and the generation is to be cancelled
--   FENCED     another worker owns the generation, or it is terminal or gone; nothing was written
--   GAP        the log does not stand at the sequence before; nothing was written
--
-- This runs for every token, so it reads by position, formats the instants once, and looks closer only where it must.
local feeds = {}
local lease_end, now_us = digits(NOW + lease_ms), digits(NOW_US)
-- Owners renew by themselves. A lease is renewed here only when that has not come in time, because each field costs a write.
local renewal_due = NOW + lease_ms * 2 / 3
local call, match, sub, number = redis.call, string.match, string.sub, tonumber
allow_out_of_memory()

local function feed_to(gateway, entry)
    local feed = feeds[gateway]
    if feed then
        feed[#feed + 1] = entry
    else
        feeds[gateway] = {entry}
    end
end

local known_readers, known_gateway  -- of the item before: mostly, all have one reader at the same gateway
local function publish(readers, entry)
    if readers ~= known_readers then
        known_readers, known_gateway = readers, match(readers, '^([^ =!]+)=%d+$')
    end
    if known_gateway then return feed_to(known_gateway, entry) end
    for gateway in each_reader(readers) do
        if sub(gateway, -1) ~= '!' then feed_to(gateway, entry) end
    end
end

local function each(generation_id, fence, before, after, feed, size)
    local key = record_key(generation_id)
    local record = call('HMGET', key, 'lease', 'fence', 'last', 'watchers', 'cancelled', 'cancel_at', 'engine_deaths')
    local lease, last = record[1], record[3]
    if record[2] ~= fence then return 'FENCED' end
    -- What has ended keeps its fence and has no lease any more. Then this is the retry of a call that also ended it.
    if not lease and call('HGET', key, 'state') ~= RUNNING_TEXT then
        return number(last) >= number(after) and 'OK' or 'FENCED'
    end
    if last == before then
        call('XADD', log_key(generation_id), after .. '-0', 'e', sub(feed, -size))
        lease = lease and number(lease)
        if before == '0' then
            call('HSET', key, 'last', after, 'lease', lease_end, 'appended_us', now_us, 'first_us', now_us)
        elseif lease and lease >= renewal_due then
            call('HSET', key, 'last', after, 'appended_us', now_us)
        else
            call('HSET', key, 'last', after, 'lease', lease_end, 'appended_us', now_us)
        end
        -- What gives tokens is no suspect any more.
        if record[7] then call('HDEL', key, 'engine_deaths') end
        if record[4] and record[4] ~= '' then publish(record[4], feed) end
        local cancelled, cancel_at = record[5], record[6]
        if not cancelled and not (cancel_at and number(cancel_at) <= NOW) then return 'OK' end
        return is_unwanted(generation_id, {cancelled = cancelled or nil, cancel_at = cancel_at or nil}, lease_ms) and 'CANCEL' or 'OK'
    end
    if number(last) >= number(after) then
        call('HSET', key, 'lease', lease_end)
        return 'OK'
    end
    return 'GAP'
end

local replies = all_but(each, 'OK')
for gateway, feed in pairs(feeds) do
    call('PUBLISH', 'tokenrelay:feed:' .. gateway, table.concat(feed))
end
return replies
