-- Renames a key that many generations share, if what is there has another type than ours. It is kept for whoever put it there.
--
-- Arguments: key, kind
-- Replies {now in microseconds, the new name, or '' if nothing was to be done}.
allow_out_of_memory()
local found = redis.call('TYPE', key).ok
if found == 'none' or found == kind then return {NOW_US, ''} end
local aside = PREFIX .. 'foreign:' .. string.sub(key, #PREFIX + 1) .. ':' .. digits(NOW_US)
redis.call('RENAME', key, aside)
return {NOW_US, aside}
