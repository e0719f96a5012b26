-- acknowledge: the job is done; all of it leaves the queue.
-- Only the owner may: the holder of the token, or of a lease that ran out if nothing has taken the job since.
-- In the same step the request enters the outbox, if there is one. A request that has ended and is not in the outbox still
-- has its job, so the worker that gets the job repeats this.
-- KEYS queue lease state job retry abort outbox   ARGV id token attempt
-- -> acknowledged outbox (1: there is one) | already_done | stale | unfinished
local holder = redis.call('GET', lease)
local at = redis.call('HMGET', state, 'attempt', 'held', 'lane')
if not holder and not redis.call('ZSCORE', queue, id) then
  return {at[3] and 'stale' or 'already_done'} -- it is in its lane again, or gone
end
if holder and holder ~= token then return {'stale'} end
if not holder and (at[1] ~= attempt or at[2] ~= '1') then return {'stale'} end
-- A failover may have lost the request's end; without its job the request would never end. A queue on a server of its
-- own has no record to compare.
local status = redis.call('HGET', rec_key(id), 'status')
if status and not is_terminal(status) then return {'unfinished'} end
redis.call('DEL', lease, state, job, retry)
redis.call('ZREM', queue, id)
redis.call('ZREM', WATCHED, id)
redis.call('ZREM', abort, id)
if at[3] then free_slot(at[3], id) end
return {'acknowledged', 'outbox', put_out(outbox, id)}
