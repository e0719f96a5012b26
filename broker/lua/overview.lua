-- overview: what waits, what has begun, who works, how many died, for those who watch. Writes nothing.
-- KEYS queue workers dead outbox refused   ARGV lanes_max begun_max workers_max
-- -> seen now_ms begun dead deferred [lane waiting since_ms]* [id held handed_back attempt crashes]* [name left_ms said]* [outbox since_ms refused]
--    begun, dead: how many. deferred: how many are due later and have not begun. The last three are lists:
--    what waits (arq:queue itself is the plain lane; since: of the one that waits longest), what has begun (held: under a
--    lease), and worker processes (left_ms: until what it said is forgotten).
--    Then: how many outcomes wait for their database, since when the first does (-1: none), how many it has refused.
local queue, now = KEYS[1], now_ms()

local function lane_of_queue()
  local due = redis.call('ZCOUNT', queue, '-inf', now) - redis.call('ZCOUNT', WATCHED, '-inf', now)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', queue, '-inf', now, 'LIMIT', 0, 16)) do
    if not redis.call('ZSCORE', WATCHED, id) then return {PLAIN, due, redis.call('ZSCORE', queue, id)} end
  end
  return due > 0 and {PLAIN, due, tostring(now)} or nil
end

local function lanes(most)
  local found, names = {lane_of_queue()}, redis.call('ZRANGE', LANES, 0, most - 1)
  for _, lane in ipairs(redis.call('ZRANGE', PARKED, 0, most - 1)) do
    names[#names + 1] = lane
  end
  for _, lane in ipairs(names) do
    local first = redis.call('ZRANGE', LANE .. lane, 0, 0, 'WITHSCORES')
    if first[1] then found[#found + 1] = {lane, redis.call('ZCARD', LANE .. lane), first[2]} end
  end
  return found
end

local function runs(most)
  local found = {}
  for _, id in ipairs(redis.call('ZRANGE', WATCHED, 0, most - 1)) do
    local at = redis.call('HMGET', 'tr:queue:state:' .. id, 'attempt', 'crashes', 'held')
    local held = redis.call('EXISTS', 'arq:in-progress:' .. id)
    found[#found + 1] = {id, held, at[3] == '0' and 1 or 0, tonumber(at[1] or 0), tonumber(at[2] or 0)}
  end
  return found
end

local function workers(most)
  local found = {}
  for _, name in ipairs(redis.call('ZRANGE', KEYS[2], 0, most - 1)) do
    local said = redis.call('GET', 'tr:worker:' .. name)
    if said then found[#found + 1] = {name, redis.call('PTTL', 'tr:worker:' .. name), said} end
  end
  return found
end

local function outbox()
  local first = redis.call('XRANGE', KEYS[4], '-', '+', 'COUNT', 1)[1]
  local since_ms = first and tonumber(string.match(first[1], '^%d+')) or -1
  return {redis.call('XLEN', KEYS[4]), since_ms, redis.call('HLEN', KEYS[5])}
end

local later = redis.call('ZCOUNT', queue, '(' .. now, '+inf') - redis.call('ZCOUNT', WATCHED, '(' .. now, '+inf')
return {
  'seen', now, redis.call('ZCARD', WATCHED), redis.call('ZCARD', KEYS[3]), math.max(later, 0),
  lanes(tonumber(ARGV[1])), runs(tonumber(ARGV[2])), workers(tonumber(ARGV[3])), outbox(),
}
