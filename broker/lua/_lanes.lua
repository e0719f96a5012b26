-- Stands before the queue's scripts: what has begun, and lanes. A request with a tenant or a priority waits in the lane `<priority>:<tenant>`,
-- a sorted set of its own. All others wait in arq:queue, which counts as one more lane: PLAIN, of no tenant.
-- LANES      lanes that are to be served, the next one first: class after class, within a class by turns.
--            A lane in which somebody waits, and that is not there, is parked: its tenant runs as many requests as it may,
--            and who frees a slot brings it back.
-- PARKED     those lanes, for whoever wants to see what waits.
-- WATCHED    what has begun, of lanes or not, with the score it has in arq:queue too, but there behind all that waits: it
--            runs under a lease, or pauses before a retry.
-- RUNNING .. tenant   the ids of those that run.
-- The names of keys come from broker/keys.py.

local PLAIN = 'normal:'
local PRIORITIES = {'high', 'normal', 'low'}
local CLASS = {high = 0, normal = 1, low = 2}
local TURNS = 1e12 -- turns of a class stand below those of the next; they begin anew when nobody waits

local function tenant_of(lane)
  return string.match(lane, ':(.*)$')
end

local function wake_one(wake, life_s)
  if redis.call('EXISTS', wake) == 0 then
    redis.call('LPUSH', wake, 1)
    redis.call('EXPIRE', wake, life_s)
  end
end

-- The turn after all others of its class.
local function last_turn(lane)
  local class = CLASS[string.match(lane, '^%a+')] * TURNS
  local last = redis.call('ZREVRANGEBYSCORE', LANES, '(' .. class + TURNS, class, 'WITHSCORES', 'LIMIT', 0, 1)
  return last[2] and tonumber(last[2]) + 1 or class
end

-- Gets a turn, unless it has one. 1 when it had none.
local function line_up(lane)
  local is_new = redis.call('ZADD', LANES, 'NX', last_turn(lane), lane)
  if is_new == 1 then redis.call('ZREM', PARKED, lane) end
  return is_new
end

-- Loses its turn: nobody waits in it, or nobody of its tenant may begin just now.
local function step_out(lane)
  redis.call('ZREM', LANES, lane)
  if lane ~= PLAIN and redis.call('EXISTS', LANE .. lane) == 1 then redis.call('ZADD', PARKED, 0, lane) end
end

local function wait_in(lane, id, since)
  redis.call('ZADD', LANE .. lane, since, id)
  line_up(lane)
end

-- It has begun, and nobody need look at it before.
local function stand_until(queue, id, until_ms)
  redis.call('ZADD', queue, until_ms, id)
  redis.call('ZADD', WATCHED, until_ms, id)
end

local function take_slot(lane, id)
  local tenant = tenant_of(lane)
  if tenant ~= '' then
    redis.call('SADD', RUNNING .. tenant, id)
    redis.call('EXPIRE', RUNNING .. tenant, STATE_LIFE_S)
  end
end

-- It runs no more: its slot is free for whatever else of its tenant waits.
local function free_slot(lane, id)
  local tenant, back = tenant_of(lane), 0
  if tenant == '' or redis.call('SREM', RUNNING .. tenant, id) == 0 then return end
  for _, priority in ipairs(PRIORITIES) do
    local other = priority .. ':' .. tenant
    if redis.call('EXISTS', LANE .. other) == 1 then back = back + line_up(other) end
  end
  if back > 0 then wake_one(WAKE, WAKE_LIFE_S) end
end

-- What has ended goes into the outbox, where there is one: then '1'. Its record, where that is on this server, stays as long
-- as it may wait: who ended it may not have known of the outbox.
local function put_out(outbox, id)
  if not redis.call('XADD', outbox, 'NOMKSTREAM', '*', 'id', id) then return '0' end
  redis.call('EXPIRE', 'tr:{' .. id .. '}:rec', OUTBOX_LIFE_S, 'GT')
  return '1'
end
