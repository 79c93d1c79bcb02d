-- Ends generations that the caller owns.
--
-- Arguments: retention_ms number
-- prompt and cached are the engine's counts of the prompt's tokens, '' if it has not said them.
-- Replies {now in microseconds, one of these per generation...}: OK (by this call or by an earlier one), FENCED, or GAP.
allow_out_of_memory()

local function each(id, fence, last, terminal_state, terminal, prompt, cached)
    local record = read(id, 'fence', unpack(CONCLUDE))
    local state = tonumber(terminal_state)
    if not record or record.fence ~= fence then return 'FENCED' end
    if record.state > RUNNING then return record.state == state and 'OK' or 'FENCED' end
    if record.last ~= last then return 'GAP' end
    conclude(id, record, state, terminal, retention_ms, tonumber(prompt), tonumber(cached))
    return 'OK'
end

return for_each(each)
