-- overview: waiting and started jobs, workers, and the number of dead requests, for monitoring. Writes nothing.
-- KEYS queue workers dead outbox refused   ARGV lanes_max begun_max workers_max
-- -> now_ms begun dead deferred [lane waiting since_ms]* [id held handed_back attempt crashes]* [name left_ms report]* [outbox since_ms refused]
--    begun, dead: how many. deferred: how many are due later and have not started.
--    The lists: what waits (arq's queue itself is the plain lane; since_ms: of the one that waits longest), what has started
--    (held: under a lease), worker processes (left_ms: until the report expires).
--    Last: how many outcomes wait for their database, since when the first does (-1: none), how many it has refused.
local now = now_ms()

local function lane_of_queue()
  local due = redis.call('ZCOUNT', queue, '-inf', now) - redis.call('ZCOUNT', WATCHED, '-inf', now)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', queue, '-inf', now, 'LIMIT', 0, 16)) do
    if not redis.call('ZSCORE', WATCHED, id) then return {PLAIN, due, redis.call('ZSCORE', queue, id)} end
  end
  return due > 0 and {PLAIN, due, tostring(now)} or nil
end

local function list_lanes(most)
  local found, names = {lane_of_queue()}, redis.call('ZRANGE', LANES, 0, most - 1)
  for _, lane in ipairs(redis.call('ZRANGE', PARKED, 0, most - 1)) do
    names[#names + 1] = lane
  end
  for _, lane in ipairs(names) do
    local first = redis.call('ZRANGE', lane_key(lane), 0, 0, 'WITHSCORES')
    if first[1] then found[#found + 1] = {lane, redis.call('ZCARD', lane_key(lane)), first[2]} end
  end
  return found
end

local function list_begun(most)
  local found = {}
  for _, id in ipairs(redis.call('ZRANGE', WATCHED, 0, most - 1)) do
    local at = redis.call('HMGET', state_key(id), 'attempt', 'crashes', 'held')
    local held = redis.call('EXISTS', lease_key(id))
    found[#found + 1] = {id, held, at[3] == '0' and 1 or 0, tonumber(at[1] or 0), tonumber(at[2] or 0)}
  end
  return found
end

local function list_workers(most)
  local found = {}
  for _, name in ipairs(redis.call('ZRANGE', workers, 0, most - 1)) do
    local report = redis.call('GET', worker_key(name))
    if report then found[#found + 1] = {name, redis.call('PTTL', worker_key(name)), report} end
  end
  return found
end

local function count_outcomes()
  local first = redis.call('XRANGE', outbox, '-', '+', 'COUNT', 1)[1]
  local since_ms = first and tonumber(string.match(first[1], '^%d+')) or -1
  return {redis.call('XLEN', outbox), since_ms, redis.call('HLEN', refused)}
end

local later = redis.call('ZCOUNT', queue, '(' .. now, '+inf') - redis.call('ZCOUNT', WATCHED, '(' .. now, '+inf')
return {
  now, redis.call('ZCARD', WATCHED), redis.call('ZCARD', dead), math.max(later, 0),
  list_lanes(tonumber(lanes_max)), list_begun(tonumber(begun_max)), list_workers(tonumber(workers_max)), count_outcomes(),
}
