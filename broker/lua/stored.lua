-- stored: the outcome is in a database, so its record need not live longer than the log.
-- KEYS rec   ARGV attempt (whose outcome it is)
-- -> released | kept (it has another outcome, or none) | unknown
local at = redis.call('HMGET', rec, 'status', 'attempt', 'finished_ms', 'retention_ms')
if not at[1] then return {'unknown'} end
if not is_terminal(at[1]) or at[2] ~= attempt then return {'kept'} end
redis.call('PEXPIRE', rec, math.max(tonumber(at[3]) + tonumber(at[4]) - now_ms(), 1))
return {'released'}
