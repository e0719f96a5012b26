-- enqueue: writes arq's envelope, puts the request into its lane or, without one, into arq's queue, and wakes a worker.
-- A request that is already in any of them is left alone: the script is idempotent, and restores a lost request.
-- Its position follows from `since_ms`, the time of submit, but at most now: that clock may be ahead of this one.
-- KEYS queue lease job   ARGV id lane (empty: none) envelope life_ms since_ms
-- -> enqueued | exists
local waits = lane ~= '' and redis.call('ZSCORE', lane_key(lane), id) or redis.call('ZSCORE', queue, id)
if waits or redis.call('EXISTS', lease) == 1 then return {'exists'} end
local since = math.min(tonumber(since_ms), now_ms())
redis.call('SET', job, envelope, 'PX', life_ms)
if lane == '' then
  redis.call('ZADD', queue, since, id)
else
  wait_in(lane, id, since)
end
redis.call('LPUSH', WAKE, 1)
redis.call('LTRIM', WAKE, 0, WAKE_TOKENS_MAX - 1)
redis.call('EXPIRE', WAKE, WAKE_LIFE_S)
return {'enqueued'}
