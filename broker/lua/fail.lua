-- fail: an attempt has failed and another is to follow; the count outlives its owner. Sent twice it counts once.
-- KEYS rec   ARGV attempt token failures (this one included)
-- -> counted | stale
local at = redis.call('HMGET', KEYS[1], 'status', 'attempt', 'token')
if at[1] ~= 'running' or at[2] ~= ARGV[1] or at[3] ~= ARGV[2] then return {'stale'} end
redis.call('HSET', KEYS[1], 'failures', ARGV[3])
return {'counted'}
