-- next_attempt: mints the next number under the lease that stands, for an owner that tries again by itself.
-- Sent twice it mints twice: numbers may skip.
-- KEYS lease state rec   ARGV token state_life_s
-- -> minted attempt | stale
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'stale'} end
local minted, begun = redis.call('HGET', KEYS[2], 'attempt'), redis.call('HGET', KEYS[3], 'attempt')
local attempt = math.max(tonumber(minted or 0), tonumber(begun or 0)) + 1
redis.call('HSET', KEYS[2], 'attempt', attempt)
redis.call('EXPIRE', KEYS[2], ARGV[2])
return {'minted', 'attempt', tostring(attempt)}
