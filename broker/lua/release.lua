#!lua flags=allow-oom
-- release: the owner drains and gives the request back to the queue, unfinished; its deltas stay until the next attempt voids them.
-- allow-oom: it goes through when the server is out of memory: it takes next to nothing.
-- KEYS rec   ARGV attempt token
-- -> released | stale
local at = redis.call('HMGET', KEYS[1], 'status', 'attempt', 'token')
if at[1] ~= 'running' or at[2] ~= ARGV[1] or at[3] ~= ARGV[2] then return {'stale'} end
redis.call('HSET', KEYS[1], 'status', 'queued')
redis.call('HINCRBY', KEYS[1], 'drains', 1)
return {'released'}
