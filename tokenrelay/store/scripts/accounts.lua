-- What tenants and their keys have open and have used, where a generation ends and waits; put behind shared.lua in front of each script.
-- The two hashes that a generation is counted in are described in keys.py. One without a tenant is counted nowhere.
--
-- An account's fields: open, reserved; requests and tokens, what is left of the limits a minute, as they were at requests_at
-- and tokens_at, with tokens_cap, the limit then; day and month with day_used and month_used; and by model waiting:<model>,
-- answer:<model>.
local MINUTE, DAY = 60000, 86400000
local KEPT = 40 * DAY  -- of the ledger

local function account_keys(tenant, key_id)
    local keys = {PREFIX .. 'tenant:' .. tenant}
    if key_id and key_id ~= '' then keys[2] = PREFIX .. 'quota:' .. tenant .. ':' .. key_id end
    return keys
end

-- What is left of a limit a minute, which is refilled all the time. A clock that was set back refills nothing.
local function refilled(left, at, cap)
    return math.min(cap, (tonumber(left) or cap) + math.max(0, NOW - (tonumber(at) or NOW)) * cap / MINUTE)
end

-- Today's date in UTC as yyyymmdd, from the days since 1970; see https://howardhinnant.github.io/date_algorithms.html.
local function today()
    local days = math.floor(NOW / DAY) + 719468
    local era = math.floor(days / 146097)
    local of_era = days - era * 146097
    local year = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524) - math.floor(of_era / 146096)) / 365)
    local of_year = of_era - (365 * year + math.floor(year / 4) - math.floor(year / 100))
    local shifted = math.floor((5 * of_year + 2) / 153)  -- months from March
    local day, month = of_year - math.floor((153 * shifted + 2) / 5) + 1, shifted < 10 and shifted + 3 or shifted - 9
    return string.format('%04d%02d%02d', year + era * 400 + (month <= 2 and 1 or 0), month, day)
end

-- Counts what waits of a tenant, when it begins and ceases to.
local function count_waiting(record, change)
    if not record.tenant then return end
    for _, key in ipairs(account_keys(record.tenant, record.key_id)) do
        on_shared('HINCRBY', key, 'waiting:' .. record.model, change)
    end
end

local function settle_account(key, reserved, used, date, answer)
    local fields = on_shared('HMGET', key, 'open', 'reserved', 'tokens', 'tokens_at', 'tokens_cap', 'day', 'day_used',
        'month', 'month_used', answer and answer.name or 'open')
    local month = string.sub(date, 1, 6)
    local write = {
        'open', digits(math.max(0, (tonumber(fields[1]) or 0) - 1)),
        'reserved', digits(math.max(0, (tonumber(fields[2]) or 0) - reserved)),
        'day', date, 'day_used', digits((fields[6] == date and tonumber(fields[7]) or 0) + used),
        'month', month, 'month_used', digits((fields[8] == month and tonumber(fields[9]) or 0) + used),
    }
    local function add(name, value)
        write[#write + 1] = name
        write[#write + 1] = value
    end
    local cap = tonumber(fields[5])
    if cap then
        -- May become negative: what an answer was longer than expected is paid before the next one.
        local left = math.min(cap, refilled(fields[3], fields[4], cap) + reserved - used)
        add('tokens', string.format('%.3f', left))
        add('tokens_at', digits(NOW))
    end
    if answer then
        local before = tonumber(fields[10]) or answer.length
        add(answer.name, string.format('%.1f', before + (answer.length - before) / 8))
    end
    redis.call('HSET', key, unpack(write))
end

-- Settles what was reserved for a generation that ends, and writes what it has used into the ledger. prompt and cached are the
-- engine's counts, nil if it never said them.
local function settle(record, state, prompt, cached)
    if not record.tenant then return end
    local reserved, out = tonumber(record.reserved) or 0, tonumber(record.last)
    prompt = record.claimed_us and (prompt or tonumber(record.estimate)) or 0
    local date = today()
    local answer = state == SUCCEEDED and {name = 'answer:' .. record.model, length = out / tonumber(record.n)}
    for _, key in ipairs(account_keys(record.tenant, record.key_id)) do
        settle_account(key, reserved, prompt + out, date, answer)
    end
    local ledger, of = PREFIX .. 'usage:' .. record.tenant .. ':' .. date, (record.key_id or '') .. ' ' .. record.model .. ' '
    on_shared('HINCRBY', ledger, of .. 'prompt_tokens', prompt)
    redis.call('HINCRBY', ledger, of .. 'cached_tokens', cached or 0)
    redis.call('HINCRBY', ledger, of .. 'completion_tokens', out)
    redis.call('HINCRBY', ledger, of .. 'ended_' .. state, 1)
    redis.call('PEXPIRE', ledger, KEPT)
end

-- Admission. What is asked for is judged by all limits of all accounts first, and only then is anything written, so that a
-- refusal changes nothing.
local FIRST_ANSWER = 256  -- tokens that an answer is expected to have when none of the tenant's has ended yet
local FEWEST_WAITING = 4  -- generations of a tenant that may wait, however small its share of the queue
local NEVER, SOMETIME = -1, -2  -- instead of how long to wait

local function open_account(scope, key, model, limits)
    local fields = on_shared('HMGET', key, 'open', 'reserved', 'requests', 'requests_at', 'tokens', 'tokens_at', 'day',
        'day_used', 'month', 'month_used', 'waiting:' .. model, 'answer:' .. model)
    local date = today()
    local account = {
        scope = scope, key = key, limits = limits, date = date, open = tonumber(fields[1]) or 0,
        reserved = tonumber(fields[2]) or 0, waiting = tonumber(fields[11]) or 0, answer = tonumber(fields[12]) or FIRST_ANSWER,
        day = fields[7] == date and tonumber(fields[8]) or 0,
        month = fields[9] == string.sub(date, 1, 6) and tonumber(fields[10]) or 0,
    }
    if limits.requests_per_minute then account.requests = refilled(fields[3], fields[4], limits.requests_per_minute) end
    if limits.tokens_per_minute then account.tokens = refilled(fields[5], fields[6], limits.tokens_per_minute) end
    return account
end

-- What is reserved: the prompt and an answer as long as the tenant's last ones were, not as long as it might become. Never
-- more than a limit allows at all, or whoever may use little could use nothing.
local function to_reserve(accounts, n, estimate, most_tokens)
    local wanted = estimate + math.min(most_tokens or math.huge, math.ceil(accounts[1].answer * n))
    for _, account in ipairs(accounts) do
        for _, name in ipairs({'tokens_per_minute', 'tokens_per_day', 'tokens_per_month'}) do
            wanted = math.min(wanted, account.limits[name] or math.huge)
        end
    end
    return math.max(wanted, estimate)
end

-- Milliseconds until the current day of UTC is over, and the month: as nobody waits for that, it is told by the day.
local function until_tomorrow() return DAY - NOW % DAY end

-- The first limit that an account has no room for: its name, and milliseconds until it may have. Nothing if all have.
local function refusal(account, estimate, reserved, most_generations)
    local limits = account.limits
    local function wait_for(missing, cap) return math.ceil(missing * MINUTE / cap) end

    if limits.concurrent and account.open >= limits.concurrent then return 'concurrent', SOMETIME end
    if limits.queued_percent then
        local most = math.max(FEWEST_WAITING, math.floor(most_generations * limits.queued_percent / 100))
        if account.waiting >= most then return 'queued_percent', SOMETIME end
    end
    for _, one in ipairs({{'tokens_per_day', account.day}, {'tokens_per_month', account.month}}) do
        local name, used = one[1], one[2]
        local cap = limits[name]
        if cap and estimate > cap then return name, NEVER end
        if cap and used + reserved > cap then return name, until_tomorrow() end
        if cap and used + account.reserved + reserved > cap then return name, SOMETIME end
    end
    if account.requests and account.requests < 1 then
        return 'requests_per_minute', wait_for(1 - account.requests, limits.requests_per_minute)
    end
    if account.tokens and estimate > limits.tokens_per_minute then return 'tokens_per_minute', NEVER end
    if account.tokens and account.tokens < reserved then
        return 'tokens_per_minute', wait_for(reserved - account.tokens, limits.tokens_per_minute)
    end
    return nil
end

local function reserve(account, reserved)
    local write = {'open', digits(account.open + 1), 'reserved', digits(account.reserved + reserved)}
    local function add(name, value)
        write[#write + 1] = name
        write[#write + 1] = value
    end
    if account.requests then
        add('requests', string.format('%.3f', account.requests - 1))
        add('requests_at', digits(NOW))
    end
    if account.tokens then
        account.tokens = account.tokens - reserved
        add('tokens', string.format('%.3f', account.tokens))
        add('tokens_at', digits(NOW))
        add('tokens_cap', account.limits.tokens_per_minute)
    end
    redis.call('HSET', account.key, unpack(write))
end

-- The account with the least left of its tokens a minute; nil if none has such a limit.
local function tightest_tokens(accounts)
    local tightest
    for _, account in ipairs(accounts) do
        if account.tokens and not (tightest and tightest.tokens <= account.tokens) then tightest = account end
    end
    return tightest
end
