-- submit: write the record and the first entry of the log, both with a lifetime that covers deadline and retention.
-- Sent twice with the same content it changes nothing.
-- KEYS rec log   ARGV request digest api model timeout_ms retention_ms accepted tenant (empty: none) priority
--   retry_of (empty: none)
-- -> accepted | standing (status, submitted_ms) | conflict
local rec, log = KEYS[1], KEYS[2]
local standing = redis.call('HMGET', rec, 'digest', 'status', 'submitted_ms')
if standing[1] then
  if standing[1] ~= ARGV[2] then return {'conflict'} end
  return {'standing', 'status', standing[2], 'submitted_ms', standing[3]}
end
local now = now_ms()
local timeout_ms, retention_ms = tonumber(ARGV[5]), tonumber(ARGV[6])
-- HSET is the first write: out of memory is refused there or nowhere (a DEL before it would open the door for the rest).
redis.call('HSET', rec, 'request', ARGV[1], 'digest', ARGV[2], 'api', ARGV[3], 'model', ARGV[4], 'status', 'queued',
  'attempt', 0, 'submitted_ms', now, 'deadline_ms', now + timeout_ms, 'retention_ms', retention_ms)
if ARGV[8] ~= '' then redis.call('HSET', rec, 'tenant', ARGV[8]) end
if ARGV[9] ~= 'normal' then redis.call('HSET', rec, 'priority', ARGV[9]) end
if ARGV[10] ~= '' then redis.call('HSET', rec, 'retry_of', ARGV[10]) end
redis.call('DEL', log)
redis.call('XADD', log, '0-1', 'e', fill_time(ARGV[7], 'at', now))
redis.call('PEXPIRE', rec, timeout_ms + retention_ms)
redis.call('PEXPIRE', log, timeout_ms + retention_ms)
return {'accepted', 'status', 'queued', 'submitted_ms', tostring(now)}
