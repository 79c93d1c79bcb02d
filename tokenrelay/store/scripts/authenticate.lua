-- Looks a key up, with its tenant. KEYS[1] is the prefix of identities, "tokenrelay:{auth}:". Only reads.
--
-- Arguments: key_id
-- Replies {now in microseconds, the key's fields and values, its tenant's fields and values}; the lists are empty if there
-- is no such key, or no such tenant.
local key = redis.call('HGETALL', PREFIX .. 'key:' .. key_id)
local tenant = redis.call('HGET', PREFIX .. 'key:' .. key_id, 'tenant')
return {NOW_US, key, tenant and redis.call('HGETALL', PREFIX .. 'tenant:' .. tenant) or {}}
