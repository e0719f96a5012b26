-- add_dead_letter: lists a dead request with what read_failure.lua found in its record, so that list and terminal agree,
-- or with what the worker knows of a job without a record. Idempotent. The oldest entries are dropped for new ones.
-- KEYS dead dead_letter job   ARGV id error (JSON) died_ms (0: there is no record) attempt failures crashes drains
--   tenant (empty: none) request (empty: none) with_envelope (1: also of a job with a record)
--   life_ms entries_max bytes_max (of an envelope)
-- -> added
life_ms, bytes_max = tonumber(life_ms), tonumber(bytes_max)
local has_record, now = died_ms ~= '0', now_ms()
local died = tonumber(has_record and died_ms or redis.call('ZSCORE', dead, id) or now)
-- Redis may refuse the first write when it is out of memory, but no later one.
redis.call('HSET', dead_letter, 'error', error, 'died_ms', died)
redis.call('PEXPIRE', dead_letter, life_ms)
redis.call('ZADD', dead, died, id)
redis.call('PEXPIRE', dead, life_ms)
redis.call('HSET', dead_letter, 'attempt', attempt, 'failures', failures, 'crashes', crashes, 'drains', drains)
if tenant ~= '' then redis.call('HSET', dead_letter, 'tenant', tenant) end
if request ~= '' then redis.call('HSET', dead_letter, 'request', request) end
if not has_record or with_envelope == '1' then
  redis.call('HSET', dead_letter, 'envelope', redis.call('GETRANGE', job, 0, bytes_max - 1))
end
local over = redis.call('ZCARD', dead) - tonumber(entries_max)
local gone = over > 0 and redis.call('ZRANGE', dead, 0, over - 1) or {}
for _, old in ipairs(redis.call('ZRANGEBYSCORE', dead, '-inf', now - life_ms)) do gone[#gone + 1] = old end
for _, old in ipairs(gone) do
  redis.call('ZREM', dead, old)
  redis.call('DEL', dead_letter_key(old))
end
return {'added'}
