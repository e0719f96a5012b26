-- unqueue: a request that has ended while it waited leaves the queue, unless a worker holds it: that one acknowledges.
-- With that it goes into the outbox, where there is one; until then it has its job, and whoever gets that does this again.
-- KEYS queue lease state job retry outbox   ARGV id lane (empty: none)
-- -> removed outbox (1: there is one) | held | unfinished
local id, lane = ARGV[1], ARGV[2]
if redis.call('EXISTS', KEYS[2]) == 1 then return {'held'} end
-- A failover may have lost the end that the caller has seen. (A queue with a server of its own has no record.)
local status = redis.call('HGET', 'tr:{' .. id .. '}:rec', 'status')
if status and not is_terminal(status) then return {'unfinished'} end
redis.call('ZREM', KEYS[1], id)
redis.call('ZREM', WATCHED, id)
redis.call('DEL', KEYS[3], KEYS[4], KEYS[5])
if lane ~= '' then
  redis.call('ZREM', LANE .. lane, id)
  free_slot(lane, id)
  if redis.call('EXISTS', LANE .. lane) == 0 then
    redis.call('ZREM', LANES, lane)
    redis.call('ZREM', PARKED, lane)
  end
end
return {'removed', 'outbox', put_out(KEYS[6], id)}
