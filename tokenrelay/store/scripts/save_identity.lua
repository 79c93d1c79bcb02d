-- Writes a tenant or a key, tells all gateways, and notes it in the audit. KEYS[1] is "tokenrelay:{auth}:".
--
-- Arguments: kind, name, owner, fields, create, after, nonce, entry
-- kind is key or tenant, name its id, owner a key's tenant. fields is a JSON object: what is to be set, or removed if it is
-- false. create is 1 for what must not be there yet, '' for what must be. The audit's last entry must be `after` ('' for
-- none), because entry, a JSON text, has its hash. nonce is this change's own and kept, so that a repeat is recognized.
-- Replies {now in microseconds, status}: DONE, MISSING (it, or its tenant, is not there), EXISTS, or RACED.
local audit, key = PREFIX .. 'audit', PREFIX .. kind .. ':' .. name
if redis.call('HGET', key, 'change') == nonce then return {NOW_US, 'DONE'} end
local last = redis.call('XREVRANGE', audit, '+', '-', 'COUNT', 1)[1]
if (last and last[1] or '') ~= after then return {NOW_US, 'RACED'} end

local is_there = redis.call('EXISTS', key) == 1
if is_there and create == '1' then return {NOW_US, 'EXISTS'} end
if not is_there and create ~= '1' then return {NOW_US, 'MISSING'} end
if kind == 'key' and redis.call('EXISTS', PREFIX .. 'tenant:' .. owner) == 0 then return {NOW_US, 'MISSING'} end

for field, value in pairs(cjson.decode(fields)) do
    if value == false then redis.call('HDEL', key, field) else redis.call('HSET', key, field, value) end
end
redis.call('HSET', key, 'change', nonce)
if kind == 'key' then
    redis.call('SADD', PREFIX .. 'keys:' .. owner, name)
else
    redis.call('SADD', PREFIX .. 'tenants', name)
end
redis.call('XADD', audit, '*', 'entry', entry)
redis.call('PUBLISH', 'tokenrelay:auth', kind .. ' ' .. name)
return {NOW_US, 'DONE'}
