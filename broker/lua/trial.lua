-- trial: whether a job begins alone: then it is to blame if its worker dies before the opposite is noted. Its owner says so.
-- KEYS lease state   ARGV token alone (0 or 1)
-- -> noted | stale
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'stale'} end
if ARGV[2] == '1' then
  redis.call('HSET', KEYS[2], 'trial', 'alone')
else
  redis.call('HDEL', KEYS[2], 'trial')
end
return {'noted'}
