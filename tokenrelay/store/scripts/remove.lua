-- Takes entries that are none of ours out of a queue.
--
-- Arguments: queue, model, entry
-- Replies {now in microseconds}.
allow_out_of_memory()
remove_entry(queue, model, entry)
return {NOW_US}
