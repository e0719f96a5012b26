-- enqueue: a request gets arq's envelope and its place, in its lane or where it has none in arq's own queue; an idle worker is
-- woken. One that stands already, wherever, is left there: sent twice it changes nothing, and it mends what broke.
-- Its place is by `since_ms`, when it was submitted; no later than now, were the clock that said so ahead of ours.
-- KEYS queue lease job   ARGV id lane (empty: none) envelope life_ms since_ms wake_tokens_max
-- -> enqueued | standing
local queue, lease, id, lane = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local waits = lane ~= '' and redis.call('ZSCORE', LANE .. lane, id) or redis.call('ZSCORE', queue, id)
if waits or redis.call('EXISTS', lease) == 1 then return {'standing'} end
local since = math.min(tonumber(ARGV[5]), now_ms())
redis.call('SET', KEYS[3], ARGV[3], 'PX', ARGV[4])
if lane == '' then
  redis.call('ZADD', queue, since, id)
else
  wait_in(lane, id, since)
end
redis.call('LPUSH', WAKE, 1)
redis.call('LTRIM', WAKE, 0, ARGV[6] - 1)
redis.call('EXPIRE', WAKE, WAKE_LIFE_S)
return {'enqueued'}
