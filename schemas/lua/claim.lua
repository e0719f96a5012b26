-- claim: takes due jobs of the queue. Each gets a lease, the next attempt number, and a score at the lease's end: running
-- jobs leave the window that claims look at, and come back into it when their owner is silent.
-- A job whose lease ran out without having been handed back has crashed its worker, or hung it, once more.
-- The ids are known only here, so their keys are made here, as in schemas/keys.py: the queue lives in one slot, as arq's.
-- With `again` 1, what an earlier call with this token took, and nobody heard of, is given out once more.
-- KEYS queue wake   ARGV limit lease_ms token again wake_life_s state_life_s
-- -> claimed next_ms left (id attempt why crashes score envelope)*
--    next_ms: until the next job is due, -1 without one. left: 1 when due jobs remain. envelope: empty when it is gone.
local queue, wake = KEYS[1], KEYS[2]
local limit, lease_ms, token = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local now = now_ms()
local jobs, count = {}, 0

local function give(id, attempt, why, crashes, score)
  redis.call('SET', 'arq:in-progress:' .. id, token, 'PX', lease_ms)
  redis.call('ZADD', queue, now + lease_ms, id)
  for _, field in ipairs({id, attempt, why, crashes, score, redis.call('GET', 'arq:job:' .. id) or ''}) do
    jobs[#jobs + 1] = tostring(field)
  end
  count = count + 1
end

local function take(id, score)
  local busy_ms = redis.call('PTTL', 'arq:in-progress:' .. id)
  if busy_ms ~= -2 then -- a worker without our scripts runs it, or somebody moved the score of a running job
    redis.call('ZADD', queue, now + (busy_ms > 0 and busy_ms or lease_ms), id)
    return
  end
  local state = 'tr:queue:state:' .. id
  local at = redis.call('HMGET', state, 'attempt', 'crashes', 'held', 'why')
  -- The record is asked too: a queue entry made anew must not mint numbers that the log has seen.
  local begun = redis.call('HGET', 'tr:{' .. id .. '}:rec', 'attempt')
  local attempt = math.max(tonumber(at[1] or 0), tonumber(begun or 0)) + 1
  local crashes, why = tonumber(at[2] or 0), at[4] or 'first'
  if at[3] == '1' then
    crashes, why = crashes + 1, 'lease_expired'
  end
  redis.call('HSET', state, 'attempt', attempt, 'crashes', crashes, 'held', 1, 'why', why)
  redis.call('EXPIRE', state, ARGV[6])
  give(id, attempt, why, crashes, score)
end

if ARGV[4] == '1' then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', queue, '(' .. now, now + lease_ms)) do
    if redis.call('GET', 'arq:in-progress:' .. id) == token then
      local at = redis.call('HMGET', 'tr:queue:state:' .. id, 'attempt', 'why', 'crashes')
      give(id, at[1], at[2], at[3], now)
    end
  end
end

local first = redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES')
if count == 0 and first[1] and tonumber(first[2]) <= now then
  local due = redis.call('ZRANGEBYSCORE', queue, '-inf', now, 'WITHSCORES', 'LIMIT', 0, limit)
  for n = 1, #due, 2 do
    take(due[n], due[n + 1])
  end
  first = redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES')
end

local next_ms, left = -1, 0
if first[1] then
  next_ms = math.max(tonumber(first[2]) - now, 0)
  if next_ms == 0 then
    left = 1
    -- Others may be idle: one token wakes one of them, who does the same for the next.
    if redis.call('EXISTS', wake) == 0 then
      redis.call('LPUSH', wake, 1)
      redis.call('EXPIRE', wake, ARGV[5])
    end
  end
end
local answer = {'claimed', tostring(next_ms), tostring(left)}
for _, field in ipairs(jobs) do
  answer[#answer + 1] = field
end
return answer
