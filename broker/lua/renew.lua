-- renew: extends the leases of one worker whose token still stands.
-- The first write must be PEXPIRE: a script that has written may go on when the server is out of memory.
-- KEYS queue   ARGV lease_ms leases (msgpack: [[id, token], ...])
-- -> renewed (id "lost")*    of those that are not named there is nothing to say
local queue, lease_ms, now = KEYS[1], tonumber(ARGV[1]), now_ms()
local answer = {'renewed'}
for _, lease in ipairs(cmsgpack.unpack(ARGV[2])) do
  local id, token = lease[1], lease[2]
  if redis.call('GET', 'arq:in-progress:' .. id) == token then
    redis.call('PEXPIRE', 'arq:in-progress:' .. id, lease_ms)
    stand_until(queue, id, now + lease_ms)
  else
    answer[#answer + 1] = id
    answer[#answer + 1] = 'lost'
  end
end
return answer
