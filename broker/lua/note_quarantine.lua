-- note_quarantine: the owner records whether a job starts alone. If so, the job is to blame if its worker dies before
-- the owner records the opposite.
-- KEYS lease state   ARGV token alone (0 or 1)
-- -> noted | stale
if redis.call('GET', lease) ~= token then return {'stale'} end
if alone == '1' then
  redis.call('HSET', state, 'quarantine', 'alone')
else
  redis.call('HDEL', state, 'quarantine')
end
return {'noted'}
