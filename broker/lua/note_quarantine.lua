-- note_quarantine: the owner notes whether a job starts alone: then it is to blame if its worker dies before it notes the
-- opposite.
-- KEYS lease state   ARGV token alone (0 or 1)
-- -> noted | stale
if redis.call('GET', lease) ~= token then return {'stale'} end
if alone == '1' then
  redis.call('HSET', state, 'quarantine', 'alone')
else
  redis.call('HDEL', state, 'quarantine')
end
return {'noted'}
