-- hand_back: the owner gives the job back, due at once or after a delay, with a reason; no crash is counted.
-- A job due at once returns to its old place, in its lane or in the queue, because it has waited already. A pause before
-- that is spent in the queue, outside any slot.
-- Only the owner may: the holder of the token, or of a lease that ran out if nothing has taken the job since. An owner
-- that is late because the server did not answer (cut_off) has not crashed: that crash and its blame are taken back.
-- KEYS queue lease state   ARGV id token attempt delay_ms why cut_off
-- -> handed_back | already_done | stale
local holder = redis.call('GET', lease)
local at = redis.call('HMGET', state, 'attempt', 'held', 'lane', 'since', 'crashed', 'quarantine')
local ours = holder == token or not holder and at[1] == attempt
if not ours then
  local first, last = string.find(at[5] or '', ' ' .. attempt .. ' ', 1, true)
  if cut_off == '1' and first then
    redis.call('HINCRBY', state, 'crashes', -1)
    redis.call('HSET', state, 'crashed', string.sub(at[5], 1, first) .. string.sub(at[5], last + 1))
    if at[6] == 'blamed' then redis.call('HDEL', state, 'quarantine') end
  end
  return {'stale'}
end
if not holder and at[2] ~= '1' then return {'already_done'} end
redis.call('DEL', lease)
redis.call('HSET', state, 'held', 0, 'why', why)
if at[6] == 'alone' then redis.call('HDEL', state, 'quarantine') end
redis.call('EXPIRE', state, STATE_LIFE_S)
local lane = at[3]
local now = now_ms()
delay_ms = tonumber(delay_ms)
if lane then free_slot(lane, id) end
if delay_ms > 0 then
  watch_until(queue, id, now + delay_ms)
else
  redis.call('ZREM', WATCHED, id)
  if lane then
    redis.call('ZREM', queue, id)
    wait_in(lane, id, at[4] or now)
  else
    redis.call('ZADD', queue, at[4] or now, id)
  end
end
-- Also for a later time: an idle worker has to learn when it is due.
wake_one_worker()
return {'handed_back'}
