-- claim: takes due jobs of the queue. Each gets a lease, the next attempt number, and a score at the end of the lease:
-- running jobs leave the range that claims read, and return to it when their owner stops renewing.
-- Jobs that have started before go first, however many wait: expired leases, pauses that are over. They are in WATCHED.
-- A lease that expired without a hand-back counts as one more crash (or hang) of its worker. A job that was alone in
-- quarantine there (note_quarantine.lua) is to blame for it.
-- The ids are known only here, so their keys are made here: the queue is on one server, as arq's is.
-- With `is_repeat` 1, the jobs that an earlier call with this token took are returned again: its reply was lost.
-- Requests in lanes (_lanes.lua) take turns with the others of their class, unless their tenant is at its limit.
-- KEYS queue   ARGV limit lease_ms token is_repeat tenant_limit (0: none) tenant_limits (msgpack)
-- -> next_ms left (id attempt why crashes blamed score envelope)*
--    next_ms: until the next job is due, -1 without one. left: 1 when due jobs remain. envelope: empty when it is gone.
limit, lease_ms = tonumber(limit), tonumber(lease_ms)
local now = now_ms()
local jobs, count = {}, 0

local function give(id, attempt, why, crashes, blamed, score)
  redis.call('SET', lease_key(id), token, 'PX', lease_ms)
  watch_until(queue, id, now + lease_ms)
  local envelope = redis.call('GET', job_key(id)) or ''
  for _, field in ipairs({id, attempt, why, crashes, blamed and 1 or 0, score, envelope}) do
    jobs[#jobs + 1] = tostring(field)
  end
  count = count + 1
end

local function take(id, score, lane)
  local busy_ms = redis.call('PTTL', lease_key(id))
  if busy_ms ~= -2 then -- a worker without our scripts runs it, or something moved the score of a running job
    watch_until(queue, id, now + (busy_ms >= 0 and busy_ms + 1 or lease_ms))
    return
  end
  local state = state_key(id)
  local at = redis.call('HMGET', state, 'attempt', 'crashes', 'held', 'why', 'lane', 'since', 'crashed', 'quarantine')
  local held, since = at[3] == '1', lane and score or at[6] or score
  if not lane and at[5] and not held then -- its pause is over: back to its place
    wait_in(at[5], id, since)
    redis.call('ZREM', queue, id)
    redis.call('ZREM', WATCHED, id)
    return
  end
  lane = lane or at[5]
  local attempt, crashes, why = tonumber(at[1] or 0) + 1, tonumber(at[2] or 0), at[4] or 'first'
  if held then crashes, why = crashes + 1, 'lease_expired' end
  redis.call('HSET', state, 'attempt', attempt, 'crashes', crashes, 'held', 1, 'why', why, 'since', since)
  if held then redis.call('HSET', state, 'crashed', (at[7] or ' ') .. at[1] .. ' ') end
  local blamed = held and at[8] or at[8] == 'blamed'
  if blamed then redis.call('HSET', state, 'quarantine', 'blamed') end
  if lane then
    redis.call('HSET', state, 'lane', lane)
    take_slot(lane, id)
  end
  redis.call('EXPIRE', state, STATE_LIFE_S)
  give(id, attempt, why, crashes, blamed, score)
end

local function take_begun()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', WATCHED, '-inf', now, 'LIMIT', 0, limit)) do
    local score = redis.call('ZSCORE', queue, id)
    if not score then -- a worker without our scripts has ended it
      redis.call('ZREM', WATCHED, id)
      local lane = redis.call('HGET', state_key(id), 'lane')
      if lane then free_slot(lane, id) end
    elseif tonumber(score) > now then -- or has moved it
      redis.call('ZADD', WATCHED, score, id)
    else
      take(id, score)
    end
  end
end

local function due_in_queue()
  return redis.call('ZRANGEBYSCORE', queue, '-inf', now, 'WITHSCORES', 'LIMIT', 0, limit - count)
end

local function take_due()
  local due = due_in_queue()
  for n = 1, #due, 2 do
    take(due[n], due[n + 1])
  end
end

local limits
local function is_full(lane)
  local tenant = tenant_of(lane)
  if tenant == '' then return false end
  limits = limits or cmsgpack.unpack(tenant_limits)
  local most = limits[tenant] or tonumber(tenant_limit)
  return most > 0 and redis.call('SCARD', running_key(tenant)) >= most
end

-- The next lane moves to the end of its class first: Redis refuses this first write when it is out of memory.
local function take_turns()
  local due = due_in_queue()
  local n = 1
  if due[1] then line_up(PLAIN) end
  while count < limit do
    local lane = redis.call('ZRANGE', LANES, 0, 0)[1]
    if not lane then return end
    redis.call('ZADD', LANES, last_turn(lane), lane)
    local served = false
    if lane == PLAIN and due[n] then
      take(due[n], due[n + 1])
      n, served = n + 2, true
    elseif lane ~= PLAIN and not is_full(lane) then
      local first = redis.call('ZPOPMIN', lane_key(lane))
      if first[1] then take(first[1], first[2], lane) end
      served = redis.call('EXISTS', lane_key(lane)) == 1
    end
    if not served then step_out(lane) end
  end
end

if is_repeat == '1' then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', queue, '(' .. now, now + lease_ms)) do
    if redis.call('GET', lease_key(id)) == token then
      local at = redis.call('HMGET', state_key(id), 'attempt', 'why', 'crashes', 'quarantine')
      give(id, at[1], at[2], at[3], at[4] == 'blamed', now)
    end
  end
end

local wants = count == 0
if wants then take_begun() end
local has_lanes = redis.call('EXISTS', LANES) == 1
local first = redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES')
local is_due = first[1] and tonumber(first[2]) <= now
if wants and count < limit and (is_due or has_lanes) then
  if has_lanes then take_turns() else take_due() end
  first = redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES')
  is_due = first[1] and tonumber(first[2]) <= now
end

local left = is_due
if has_lanes then
  if not is_due then redis.call('ZREM', LANES, PLAIN) end
  left = left or redis.call('EXISTS', LANES) == 1
end
-- Other workers may be idle: one token wakes one of them, which does the same for the next.
if left then wake_one_worker() end
local next_ms = left and 0 or first[1] and tonumber(first[2]) - now or -1
local answer = {tostring(next_ms), left and '1' or '0'}
for _, field in ipairs(jobs) do
  answer[#answer + 1] = field
end
return answer
