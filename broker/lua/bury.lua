-- bury: an entry in the dead-letter list, after the end of its request: what epitaph.lua has found in the record, so list and
-- terminal agree; of a job without one, what its worker says. Repeated it doubles nothing.
-- The oldest entries give way to new ones. The ids are known only here, so their keys are made here, as in broker/keys.py.
-- KEYS dead letter job   ARGV id error (JSON) died_ms (0: there is no record) attempt failures crashes drains
--   tenant (empty: none) request (empty: none) with_envelope (1: also of a job with a record)
--   life_ms entries_max bytes_max (of an envelope)
-- -> buried
local dead, letter, job, id = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
local life_ms, most, bytes_max = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local has_record, now = ARGV[3] ~= '0', now_ms()
local died = tonumber(has_record and ARGV[3] or redis.call('ZSCORE', dead, id) or now)
-- The first write may be refused when the server is out of memory; what follows a write may not.
redis.call('HSET', letter, 'error', ARGV[2], 'died_ms', died)
redis.call('PEXPIRE', letter, life_ms)
redis.call('ZADD', dead, died, id)
redis.call('PEXPIRE', dead, life_ms)
redis.call('HSET', letter, 'attempt', ARGV[4], 'failures', ARGV[5], 'crashes', ARGV[6], 'drains', ARGV[7])
if ARGV[8] ~= '' then redis.call('HSET', letter, 'tenant', ARGV[8]) end
if ARGV[9] ~= '' then redis.call('HSET', letter, 'request', ARGV[9]) end
if not has_record or ARGV[10] == '1' then
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
