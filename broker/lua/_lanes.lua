-- Part of the queue's scripts: lanes, and jobs that have started.
-- A request with a tenant or a priority waits in the lane `<priority>:<tenant>`, a sorted set of its own. All others wait
-- in arq's queue, which counts as one more lane: PLAIN, without a tenant.
-- LANES      the lanes to serve, the next one first: class by class, round robin within a class.
-- PARKED     lanes with waiting requests whose tenant is at its limit. A slot that becomes free moves its lane back to LANES.
-- WATCHED    jobs that have started, from lanes or not, with their score in arq's queue, where they sort after all
--            waiting jobs: they run under a lease, or pause before a retry.
-- running_key(tenant)   the ids of a tenant's running jobs.

local PLAIN = 'normal:'
local PRIORITIES = {'high', 'normal', 'low'}
local CLASS = {high = 0, normal = 1, low = 2}
local TURNS = 1e12 -- positions of a class sort before those of the next class; they start again when nothing waits

local function tenant_of(lane)
  return string.match(lane, ':(.*)$')
end

local function wake_one_worker()
  if redis.call('EXISTS', WAKE) == 0 then
    redis.call('LPUSH', WAKE, 1)
    redis.call('EXPIRE', WAKE, WAKE_LIFE_S)
  end
end

-- The position after all others of its class.
local function last_turn(lane)
  local class = CLASS[string.match(lane, '^%a+')] * TURNS
  local last = redis.call('ZREVRANGEBYSCORE', LANES, '(' .. class + TURNS, class, 'WITHSCORES', 'LIMIT', 0, 1)
  return last[2] and tonumber(last[2]) + 1 or class
end

-- Adds a lane to those to serve. Returns 1 if it was not among them.
local function line_up(lane)
  local is_new = redis.call('ZADD', LANES, 'NX', last_turn(lane), lane)
  if is_new == 1 then redis.call('ZREM', PARKED, lane) end
  return is_new
end

-- Removes a lane: nothing waits in it, or its tenant is at its limit.
local function step_out(lane)
  redis.call('ZREM', LANES, lane)
  if lane ~= PLAIN and redis.call('EXISTS', lane_key(lane)) == 1 then redis.call('ZADD', PARKED, 0, lane) end
end

local function wait_in(lane, id, since)
  redis.call('ZADD', lane_key(lane), since, id)
  line_up(lane)
end

-- The job has started; no claim takes it before this time.
local function watch_until(queue, id, until_ms)
  redis.call('ZADD', queue, until_ms, id)
  redis.call('ZADD', WATCHED, until_ms, id)
end

local function take_slot(lane, id)
  local tenant = tenant_of(lane)
  if tenant ~= '' then
    redis.call('SADD', running_key(tenant), id)
    redis.call('EXPIRE', running_key(tenant), STATE_LIFE_S)
  end
end

-- The job no longer runs: its slot is free for other jobs of its tenant.
local function free_slot(lane, id)
  local tenant, back = tenant_of(lane), 0
  if tenant == '' or redis.call('SREM', running_key(tenant), id) == 0 then return end
  for _, priority in ipairs(PRIORITIES) do
    local other = priority .. ':' .. tenant
    if redis.call('EXISTS', lane_key(other)) == 1 then back = back + line_up(other) end
  end
  if back > 0 then wake_one_worker() end
end

-- Adds an ended request to the outbox and returns '1', if there is an outbox. Its record, if it is on this server, then
-- lives as long as the outcome may wait: the caller of finish or cancel may not have known of the outbox.
local function put_out(outbox, id)
  if not redis.call('XADD', outbox, 'NOMKSTREAM', '*', 'id', id) then return '0' end
  redis.call('EXPIRE', rec_key(id), OUTBOX_LIFE_S, 'GT')
  return '1'
end
