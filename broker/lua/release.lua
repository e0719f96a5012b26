#!lua flags=allow-oom
-- release: a draining owner gives the request back to the queue, unfinished. The next attempt discards its deltas.
-- allow-oom: it needs almost no memory.
-- KEYS rec   ARGV attempt token
-- -> released | stale
local at = redis.call('HMGET', rec, 'status', 'attempt', 'token')
if at[1] ~= 'running' or at[2] ~= attempt or at[3] ~= token then return {'stale'} end
redis.call('HSET', rec, 'status', 'queued')
redis.call('HINCRBY', rec, 'drains', 1)
return {'released'}
