-- fail: an attempt has failed and another one is to follow; the count is kept across owners.
-- Idempotent: `failures` is the count, not an increment.
-- KEYS rec   ARGV attempt token failures (this one included)
-- -> counted | stale
local at = redis.call('HMGET', rec, 'status', 'attempt', 'token')
if at[1] ~= 'running' or at[2] ~= attempt or at[3] ~= token then return {'stale'} end
redis.call('HSET', rec, 'failures', failures)
return {'counted'}
