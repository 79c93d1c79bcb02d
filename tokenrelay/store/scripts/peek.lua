-- Reads a generation's record for a tenant.
--
-- Arguments: id, tenant
-- Replies {now in microseconds, fields and values}; the list is empty if the tenant has no such generation.
local owner = redis.call('HMGET', record_key(id), 'state', 'tenant')
if not owner[1] or is_foreign({tenant = owner[2] or nil}, tenant) then return {NOW_US, {}} end
return {NOW_US, redis.call('HGETALL', record_key(id))}
