-- next_attempt: issues the next number under a valid lease, for an owner that retries by itself, or whose number the log
-- has seen already: the queue's count starts again when a job is enqueued again.
-- Sent twice, it issues two numbers: numbers may be skipped.
-- KEYS lease state   ARGV token above
-- -> minted attempt | stale
if redis.call('GET', lease) ~= token then return {'stale'} end
local minted = redis.call('HGET', state, 'attempt')
local attempt = math.max(tonumber(minted or 0), tonumber(above)) + 1
redis.call('HSET', state, 'attempt', attempt)
redis.call('EXPIRE', state, STATE_LIFE_S)
return {'minted', 'attempt', tostring(attempt)}
