-- acknowledge: the job is done with, and everything of it leaves the queue.
-- The owner may: who holds the token, or whose lease ran out while nobody has taken the job since.
-- With that the request goes into the outbox, where there is one: a request that has ended and is not there still has its
-- job, so whoever gets that does this again.
-- KEYS queue lease state job retry abort outbox   ARGV id token attempt
-- -> acknowledged outbox (1: there is one) | again | stale | unfinished
local queue, lease, state, id = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
local holder = redis.call('GET', lease)
local at = redis.call('HMGET', state, 'attempt', 'held', 'lane')
if not holder and not redis.call('ZSCORE', queue, id) then
  return {at[3] and 'stale' or 'again'} -- a lane has it again, or nobody
end
if holder and holder ~= ARGV[2] then return {'stale'} end
if not holder and (at[1] ~= ARGV[3] or at[2] ~= '1') then return {'stale'} end
-- A failover may have lost the request's end; without its job it would never come to another one. Where the queue has a
-- server of its own there is no record here, and nothing to compare.
local status = redis.call('HGET', 'tr:{' .. id .. '}:rec', 'status')
if status and not is_terminal(status) then return {'unfinished'} end
redis.call('DEL', lease, state, KEYS[4], KEYS[5])
redis.call('ZREM', queue, id)
redis.call('ZREM', WATCHED, id)
redis.call('ZREM', KEYS[6], id)
if at[3] then free_slot(at[3], id) end
return {'acknowledged', 'outbox', put_out(KEYS[7], id)}
