-- Appends a frame: entries of many generations, each checked against its generation's fence on its own.
--
-- ARGV: lease in milliseconds, then per entry: id, fence, sequence before, sequence after, a tokenrelay.store.v1.LogEntry
-- Replies {now in microseconds, one of these per entry...}:
--   OK         it is in the log, by this call or by an earlier one; the lease is renewed
--   CANCEL     the same, and the generation is to be cancelled
--   FENCED     another worker owns the generation, or it is terminal or gone; nothing was written
--   GAP        the log does not stand at the sequence before; nothing was written
local lease = tonumber(ARGV[1])
local replies, feeds = {NOW_US}, {}
allow_out_of_memory()

for position = 2, #ARGV, 5 do
    local id, fence, before, after, entry = unpack(ARGV, position, position + 4)
    local record = read(id, 'fence', 'last', 'engine_deaths', 'watchers', unpack(UNWANTED))
    local reply
    if not record or record.fence ~= fence then
        reply = 'FENCED'
    elseif record.state ~= RUNNING then
        -- The retry of a call that also ended the generation.
        reply = tonumber(record.last) >= tonumber(after) and 'OK' or 'FENCED'
    elseif record.last == before then
        redis.call('XADD', log_key(id), after .. '-0', 'e', entry)
        redis.call('HSET', record_key(id), 'last', after, 'lease', NOW + lease, 'appended_us', NOW_US)
        -- What gives tokens is no suspect any more.
        if record.engine_deaths then redis.call('HDEL', record_key(id), 'engine_deaths') end
        if before == '0' then redis.call('HSET', record_key(id), 'first_us', NOW_US) end
        for gateway in each_watcher(record.watchers) do
            if string.sub(gateway, -1) ~= '!' then
                local feed = feeds[gateway]
                if not feed then
                    feed = {}
                    feeds[gateway] = feed
                end
                feed[#feed + 1] = feed_entry(id, tonumber(after), LOG_ENTRY, entry)
            end
        end
        reply = is_unwanted(id, record, lease) and 'CANCEL' or 'OK'
    elseif tonumber(record.last) >= tonumber(after) then
        redis.call('HSET', record_key(id), 'lease', NOW + lease)
        reply = 'OK'
    else
        reply = 'GAP'
    end
    replies[#replies + 1] = reply
end

for gateway, feed in pairs(feeds) do
    redis.call('PUBLISH', 'tokenrelay:feed:' .. gateway, table.concat(feed))
end
return replies
