-- bury: an entry in the dead-letter list, after the end of its request. Of a request with a record it says what `finish`
-- noted there, so list and terminal agree; of a job without one, what its worker says. Repeated it doubles nothing.
-- The oldest entries give way to new ones. The ids are known only here, so their keys are made here, as in schemas/keys.py.
-- KEYS dead letter rec job   ARGV id error (JSON) crashes with_envelope (1: also of a job with a record)
--   life_ms entries_max bytes_max (of a request, and of an envelope)
-- -> buried | spared (it has not ended so)
local dead, letter, rec, job, id = KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1]
local life_ms, most, bytes_max = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local at = redis.call('HMGET', rec, 'status', 'dead', 'error', 'finished_ms', 'attempt', 'failures', 'crashes', 'drains', 'tenant')
local has_record = at[1]
if has_record and not (at[1] == 'failed' and at[2]) then return {'spared'} end
local now = now_ms()
local died = tonumber(has_record and at[4] or redis.call('ZSCORE', dead, id) or now)
-- The first write may be refused when the server is out of memory; what follows a write may not.
redis.call('HSET', letter, 'error', has_record and at[3] or ARGV[2], 'died_ms', died)
redis.call('PEXPIRE', letter, life_ms)
redis.call('ZADD', dead, died, id)
redis.call('PEXPIRE', dead, life_ms)
redis.call('HSET', letter, 'attempt', at[5] or '0', 'failures', at[6] or '0', 'crashes', at[7] or ARGV[3], 'drains', at[8] or '0')
if at[9] then redis.call('HSET', letter, 'tenant', at[9]) end
if has_record and redis.call('HSTRLEN', rec, 'request') <= bytes_max then
  redis.call('HSET', letter, 'request', redis.call('HGET', rec, 'request'))
end
if not has_record or ARGV[4] == '1' then
  redis.call('HSET', letter, 'envelope', redis.call('GETRANGE', job, 0, bytes_max - 1))
end
local over = redis.call('ZCARD', dead) - most
local gone = over > 0 and redis.call('ZRANGE', dead, 0, over - 1) or {}
for _, old in ipairs(redis.call('ZRANGEBYSCORE', dead, '-inf', now - life_ms)) do gone[#gone + 1] = old end
for _, old in ipairs(gone) do
  redis.call('ZREM', dead, old)
  redis.call('DEL', 'tr:dead:' .. old)
end
return {'buried'}
