-- stored: the outcome stands in a database, so its record need not be kept for that any longer than the log is.
-- KEYS rec   ARGV attempt (whose outcome it is)
-- -> released | kept (it has another outcome, or none) | unknown
local rec = KEYS[1]
local at = redis.call('HMGET', rec, 'status', 'attempt', 'finished_ms', 'retention_ms')
if not at[1] then return {'unknown'} end
if not is_terminal(at[1]) or at[2] ~= ARGV[1] then return {'kept'} end
redis.call('PEXPIRE', rec, math.max(tonumber(at[3]) + tonumber(at[4]) - now_ms(), 1))
return {'released'}
