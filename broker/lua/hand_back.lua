-- hand_back: the owner gives the job back, due at once or after a delay, and says why; no crash is counted.
-- Due at once it goes back to its old place, in its lane or in the queue, since it has waited already; a pause before
-- that it spends in the queue, in no slot.
-- The owner may: who holds the token, or whose lease ran out while nobody has taken the job since. Who comes too late
-- because the server did not answer (cut_off) has not crashed: that count is taken back, and the blame.
-- KEYS queue wake lease state   ARGV id token attempt delay_ms why wake_life_s state_life_s cut_off
-- -> handed_back | again | stale
local queue, wake, lease, state, id = KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1]
local holder = redis.call('GET', lease)
local at = redis.call('HMGET', state, 'attempt', 'held', 'lane', 'since', 'crashed', 'trial')
local ours = holder == ARGV[2] or not holder and at[1] == ARGV[3]
if not ours then
  local first, last = string.find(at[5] or '', ' ' .. ARGV[3] .. ' ', 1, true)
  if ARGV[8] == '1' and first then
    redis.call('HINCRBY', state, 'crashes', -1)
    redis.call('HSET', state, 'crashed', string.sub(at[5], 1, first) .. string.sub(at[5], last + 1))
    if at[6] == 'blamed' then redis.call('HDEL', state, 'trial') end
  end
  return {'stale'}
end
if not holder and at[2] ~= '1' then return {'again'} end
redis.call('DEL', lease)
redis.call('HSET', state, 'held', 0, 'why', ARGV[5])
if at[6] == 'alone' then redis.call('HDEL', state, 'trial') end
redis.call('EXPIRE', state, ARGV[7])
local lane, delay_ms = at[3], tonumber(ARGV[4])
local now = now_ms()
if lane then free_slot(lane, id) end
if delay_ms > 0 then
  stand_until(queue, id, now + delay_ms)
else
  redis.call('ZREM', WATCHED, id)
  if lane then
    redis.call('ZREM', queue, id)
    wait_in(lane, id, at[4] or now)
  else
    redis.call('ZADD', queue, at[4] or now, id)
  end
end
-- Also for a later time: whoever is idle has to learn of it.
wake_one(wake, ARGV[6])
return {'handed_back'}
