-- announce: a worker process is one of those to be seen, for as long as `life_ms` says; or it goes. What each says of
-- itself stands beside it, in a key of its own (report, a plain SET, since it is said often).
-- KEYS workers worker   ARGV name gone (1: it goes) life_ms
-- -> noted | gone
local workers, now = KEYS[1], now_ms()
redis.call('ZREMRANGEBYSCORE', workers, '-inf', now)
if ARGV[2] == '1' then
  redis.call('DEL', KEYS[2])
  redis.call('ZREM', workers, ARGV[1])
  return {'gone'}
end
redis.call('ZADD', workers, now + ARGV[3], ARGV[1])
redis.call('PEXPIRE', workers, ARGV[3])
return {'noted'}
