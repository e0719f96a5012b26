-- signs: whether any worker deals with a request that has not ended, for a quiet tail. Writes nothing.
-- Held: a worker has it, or it pauses before its next attempt. Waiting: it is in the queue, or in its lane. Lost: it is
-- nowhere, so no worker would ever run it, unless it has ended since its record was read.
-- KEYS lease queue health   ARGV id lane (empty: none) since_ms (since when it waits, 0: it has started before)
-- -> held | waiting (alive: 1 if some worker is alive, waited_ms: of one that never started) | lost
local since = tonumber(since_ms)
if redis.call('EXISTS', lease) == 1 then return {'held'} end
local due, now = redis.call('ZSCORE', queue, id), now_ms()
if due and tonumber(due) > now then return {'held'} end
if not due and (lane == '' or not redis.call('ZSCORE', lane_key(lane), id)) then return {'lost'} end
local waited_ms = since > 0 and math.max(now - since, 0) or 0
return {'waiting', 'alive', tostring(redis.call('EXISTS', health)), 'waited_ms', string.format('%.0f', waited_ms)}
