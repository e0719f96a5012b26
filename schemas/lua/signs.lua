-- signs: whether anybody works on a request, for a reader to whom nothing comes. Writes nothing.
-- Held: a worker has it, or it pauses before its next attempt. Waiting: it is in the queue, or in its lane. Lost: it is
-- nowhere, so nobody would ever run it.
-- KEYS rec lease queue health   ARGV id
-- -> held | waiting (alive: 1 where a worker gives signs of life, waited_ms: since submit, of one never begun) | lost | ended
--    | unknown
local rec, queue, id = KEYS[1], KEYS[3], ARGV[1]
local at = redis.call('HMGET', rec, 'status', 'attempt', 'submitted_ms', 'tenant', 'priority')
local status, now = at[1], now_ms()
if not status then return {'unknown'} end
if is_terminal(status) then return {'ended'} end
if redis.call('EXISTS', KEYS[2]) == 1 then return {'held'} end
local due = redis.call('ZSCORE', queue, id)
if due and tonumber(due) > now then return {'held'} end
local lane = (at[5] or 'normal') .. ':' .. (at[4] or '')
if not due and not redis.call('ZSCORE', LANE .. lane, id) then return {'lost'} end
local waited_ms = at[2] == '0' and now - tonumber(at[3]) or 0
return {'waiting', 'alive', tostring(redis.call('EXISTS', KEYS[4])), 'waited_ms', tostring(waited_ms)}
