#!lua flags=allow-oom
-- cancel: ends a waiting request at once, in the next attempt; signals the owner of a running one.
-- allow-oom: an end is written even when the server is out of memory.
-- KEYS rec log   ARGV id terminal outcome keep_record_ms (as in finish)
-- -> ended | signalled | finished status | unknown
local at = redis.call('HMGET', rec, 'status', 'attempt', 'submitted_ms', 'retention_ms')
local status = at[1]
if not status then return {'unknown'} end
if is_terminal(status) then return {'finished', 'status', status} end
if redis.call('EXISTS', log) == 0 then return {'unknown'} end
redis.call('HSET', rec, 'cancel', 1)
if status == 'running' then
  redis.call('PUBLISH', CANCEL_CHANNEL, id)
  return {'signalled'}
end
local now, attempt = now_ms(), math.max(tonumber(at[2]), last_attempt(log)) + 1
outcome = fill(outcome, 'attempt', 'null', tostring(attempt))
outcome = fill_time(fill_time(outcome, 'submitted_at', tonumber(at[3])), 'finished_at', now)
append(log, attempt, 0, terminal)
redis.call('HSET', rec, 'status', 'cancelled', 'attempt', attempt, 'outcome', outcome, 'finished_ms', now)
redis.call('HDEL', rec, 'token')
redis.call('PEXPIRE', rec, math.max(tonumber(at[4]), tonumber(keep_record_ms)))
redis.call('PEXPIRE', log, at[4])
return {'ended'}
