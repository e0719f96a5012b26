-- signs: whether anybody works on a request that has not ended, for a reader to whom nothing comes. Writes nothing.
-- Held: a worker has it, or it pauses before its next attempt. Waiting: it is in the queue, or in its lane. Lost: it is
-- nowhere, so nobody would ever run it, unless it has ended since its record was read.
-- KEYS lease queue health   ARGV id lane (empty: none) since_ms (since when it waits, 0: it has begun before)
-- -> held | waiting (alive: 1 where a worker gives signs of life, waited_ms: of one never begun) | lost
local queue, id, lane, since = KEYS[2], ARGV[1], ARGV[2], tonumber(ARGV[3])
if redis.call('EXISTS', KEYS[1]) == 1 then return {'held'} end
local due, now = redis.call('ZSCORE', queue, id), now_ms()
if due and tonumber(due) > now then return {'held'} end
if not due and (lane == '' or not redis.call('ZSCORE', LANE .. lane, id)) then return {'lost'} end
local waited_ms = since > 0 and math.max(now - since, 0) or 0
return {'waiting', 'alive', tostring(redis.call('EXISTS', KEYS[3])), 'waited_ms', string.format('%.0f', waited_ms)}
