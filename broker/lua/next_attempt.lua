-- next_attempt: mints the next number under the lease that stands, for an owner that tries again by itself, or whose
-- number the log has seen: the queue's own count begins anew when its entry does.
-- Sent twice it mints twice: numbers may skip.
-- KEYS lease state   ARGV token state_life_s above
-- -> minted attempt | stale
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'stale'} end
local minted = redis.call('HGET', KEYS[2], 'attempt')
local attempt = math.max(tonumber(minted or 0), tonumber(ARGV[3])) + 1
redis.call('HSET', KEYS[2], 'attempt', attempt)
redis.call('EXPIRE', KEYS[2], ARGV[2])
return {'minted', 'attempt', tostring(attempt)}
