-- unqueue: a request that ended while it waited leaves the queue, unless a worker holds it, which then acknowledges.
-- In the same step it enters the outbox, if there is one. Until then it has its job, and the worker that gets it repeats this.
-- KEYS queue lease state job retry outbox   ARGV id lane (empty: none)
-- -> removed outbox (1: there is one) | held | unfinished
if redis.call('EXISTS', lease) == 1 then return {'held'} end
-- A failover may have lost the end that the caller has seen. (A queue on a server of its own has no record.)
local status = redis.call('HGET', rec_key(id), 'status')
if status and not is_terminal(status) then return {'unfinished'} end
redis.call('ZREM', queue, id)
redis.call('ZREM', WATCHED, id)
redis.call('DEL', state, job, retry)
if lane ~= '' then
  redis.call('ZREM', lane_key(lane), id)
  free_slot(lane, id)
  if redis.call('EXISTS', lane_key(lane)) == 0 then
    redis.call('ZREM', LANES, lane)
    redis.call('ZREM', PARKED, lane)
  end
end
return {'removed', 'outbox', put_out(outbox, id)}
