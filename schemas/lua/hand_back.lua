-- hand_back: the owner gives the job back, due at once or after a delay, and says why; no crash is counted.
-- One that came from a lane goes back to its old place there; a pause before that it spends in the queue, in no slot.
-- The owner may: who holds the token, or whose lease ran out while nobody has taken the job since.
-- KEYS queue wake lease state   ARGV id token attempt delay_ms why wake_life_s state_life_s
-- -> handed_back | again | stale
local queue, wake, lease, state, id = KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1]
local holder = redis.call('GET', lease)
if holder and holder ~= ARGV[2] then return {'stale'} end
local at = redis.call('HMGET', state, 'attempt', 'held', 'lane', 'since')
if not holder then
  if at[1] ~= ARGV[3] then return {'stale'} end
  if at[2] ~= '1' then return {'again'} end
end
redis.call('DEL', lease)
redis.call('HSET', state, 'held', 0, 'why', ARGV[5])
redis.call('EXPIRE', state, ARGV[7])
local lane, delay_ms = at[3], tonumber(ARGV[4])
local due = now_ms() + delay_ms
if lane then free_slot(lane, id) end
if lane and delay_ms == 0 then
  redis.call('ZREM', queue, id)
  wait_in(lane, id, at[4])
else
  redis.call('ZADD', queue, due, id)
  if lane then redis.call('ZADD', WATCHED, due, lane .. ':' .. id) end
end
-- Also for a later time: whoever is idle has to learn of it.
wake_one(wake, ARGV[6])
return {'handed_back'}
