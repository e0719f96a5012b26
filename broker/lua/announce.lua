-- announce: lists a worker process for `life_ms`, or removes it. Its report is in a key of its own, which a plain SET
-- writes often.
-- KEYS workers worker   ARGV name gone (1: it leaves) life_ms
-- -> noted | gone
local now = now_ms()
redis.call('ZREMRANGEBYSCORE', workers, '-inf', now)
if gone == '1' then
  redis.call('DEL', worker)
  redis.call('ZREM', workers, name)
  return {'gone'}
end
redis.call('ZADD', workers, now + life_ms, name)
redis.call('PEXPIRE', workers, life_ms)
return {'noted'}
