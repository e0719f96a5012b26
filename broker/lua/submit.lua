-- submit: writes the record and the first entry of the log, both with a lifetime that covers deadline and retention.
-- Idempotent: the same content again changes nothing.
-- KEYS rec log   ARGV request digest api model timeout_ms retention_ms accepted tenant (empty: none) priority
--   retry_of (empty: none)
-- -> accepted | exists (status, submitted_ms) | conflict
local existing = redis.call('HMGET', rec, 'digest', 'status', 'submitted_ms')
if existing[1] then
  if existing[1] ~= digest then return {'conflict'} end
  return {'exists', 'status', existing[2], 'submitted_ms', existing[3]}
end
local now = now_ms()
timeout_ms, retention_ms = tonumber(timeout_ms), tonumber(retention_ms)
-- HSET is the first write, so Redis refuses it when it is out of memory. After another write, such as DEL, it would not.
redis.call('HSET', rec, 'request', request, 'digest', digest, 'api', api, 'model', model, 'status', 'queued',
  'attempt', 0, 'submitted_ms', now, 'deadline_ms', now + timeout_ms, 'retention_ms', retention_ms)
if tenant ~= '' then redis.call('HSET', rec, 'tenant', tenant) end
if priority ~= 'normal' then redis.call('HSET', rec, 'priority', priority) end
if retry_of ~= '' then redis.call('HSET', rec, 'retry_of', retry_of) end
redis.call('DEL', log)
redis.call('XADD', log, '0-1', ENTRY_FIELD, fill_time(accepted, 'at', now))
redis.call('PEXPIRE', rec, timeout_ms + retention_ms)
redis.call('PEXPIRE', log, timeout_ms + retention_ms)
return {'accepted', 'status', 'queued', 'submitted_ms', tostring(now)}
