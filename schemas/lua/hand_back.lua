-- hand_back: the owner gives the job back, due at once or after a delay, and says why; no crash is counted.
-- The owner may: who holds the token, or whose lease ran out while nobody has taken the job since.
-- KEYS queue wake lease state   ARGV id token attempt delay_ms why wake_life_s state_life_s
-- -> handed_back | again | stale
local queue, wake, lease, state, id = KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1]
local holder = redis.call('GET', lease)
if holder and holder ~= ARGV[2] then return {'stale'} end
local at = redis.call('HMGET', state, 'attempt', 'held')
if not holder then
  if at[1] ~= ARGV[3] then return {'stale'} end
  if at[2] ~= '1' then return {'again'} end
end
redis.call('DEL', lease)
redis.call('HSET', state, 'held', 0, 'why', ARGV[5])
redis.call('EXPIRE', state, ARGV[7])
redis.call('ZADD', queue, now_ms() + tonumber(ARGV[4]), id)
-- Also for a later time: whoever is idle has to learn of it.
if redis.call('EXISTS', wake) == 0 then
  redis.call('LPUSH', wake, 1)
  redis.call('EXPIRE', wake, ARGV[6])
end
return {'handed_back'}
