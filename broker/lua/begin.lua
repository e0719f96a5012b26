-- begin: an attempt takes over the log. Refused unless its number is above those in the record and the log.
-- From here on Redis refuses every entry id of an earlier attempt: this is the fence.
-- Idempotent: the same attempt and token again are answered with `resumed`.
-- The counts of failures, crashes and drains are kept across owners. The queue passes its count of crashes.
-- KEYS rec log   ARGV attempt token attempt_started crashes
-- -> begun | resumed (request, cancel, times, counts) | stale attempt | ended status | unknown
attempt = tonumber(attempt)
local at = redis.call('HMGET', rec, 'status', 'attempt', 'token', 'request', 'cancel', 'submitted_ms', 'deadline_ms', 'retention_ms', 'started_ms',
  'failures', 'crashes', 'drains')
local status, recorded = at[1], tonumber(at[2])
crashes = math.max(tonumber(at[11] or 0), tonumber(crashes))
if not status or redis.call('EXISTS', log) == 0 then return {'unknown'} end
if is_terminal(status) then return {'ended', 'status', status} end
local answer, started = 'begun', now_ms()
if recorded == attempt and at[3] == token then
  answer, started = 'resumed', tonumber(at[9])
else
  local taken = math.max(recorded, last_attempt(log))
  if attempt <= taken then return {'stale', 'attempt', tostring(taken)} end
  append(log, attempt, 0, fill_time(attempt_started, 'at', started))
  redis.call('HSET', rec, 'status', 'running', 'attempt', attempt, 'token', token, 'started_ms', started,
    'crashes', crashes)
  local life_ms = math.max(tonumber(at[7]) - started, 0) + tonumber(at[8])
  redis.call('PEXPIRE', rec, life_ms)
  redis.call('PEXPIRE', log, life_ms)
end
return {answer, 'request', at[4], 'cancel', at[5] or '0', 'submitted_ms', at[6], 'started_ms', tostring(started), 'deadline_ms', at[7],
  'failures', at[10] or '0', 'crashes', tostring(crashes), 'drains', at[12] or '0'}
