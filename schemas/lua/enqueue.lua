-- enqueue: a request with a tenant or a priority gets arq's envelope and its place in its lane; an idle worker is woken.
-- One that stands already, wherever, is left there: sent twice it changes nothing, and it mends what broke.
-- KEYS queue lease job   ARGV id lane envelope life_ms wake_tokens_max
-- -> enqueued | standing
local queue, lease, id, lane = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
if redis.call('ZSCORE', LANE .. lane, id) or redis.call('ZSCORE', queue, id) or redis.call('EXISTS', lease) == 1 then
  return {'standing'}
end
redis.call('SET', KEYS[3], ARGV[3], 'PX', ARGV[4])
wait_in(lane, id, now_ms())
redis.call('LPUSH', WAKE, 1)
redis.call('LTRIM', WAKE, 0, ARGV[5] - 1)
redis.call('EXPIRE', WAKE, WAKE_LIFE_S)
return {'enqueued'}
