-- renew: extends those leases of one worker whose tokens still match.
-- The first write must be PEXPIRE: after it the script may continue when the server is out of memory.
-- KEYS queue   ARGV lease_ms leases (msgpack: [[id, token], ...])
-- -> (id)*   the leases that are lost
local now = now_ms()
local lost = {}
for _, held in ipairs(cmsgpack.unpack(leases)) do
  local id, token = held[1], held[2]
  if redis.call('GET', lease_key(id)) == token then
    redis.call('PEXPIRE', lease_key(id), lease_ms)
    watch_until(queue, id, now + lease_ms)
  else
    lost[#lost + 1] = id
  end
end
return lost
