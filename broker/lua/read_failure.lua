-- read_failure: a request's data for the dead-letter list, as finish.lua recorded it. Writes nothing.
-- KEYS rec   ARGV bytes_max (of a request)
-- -> dead error died_ms attempt failures crashes drains [tenant] [request] | not_dead | no_record
local names = {'error', 'finished_ms', 'attempt', 'failures', 'crashes', 'drains', 'tenant'}
local at = redis.call('HMGET', rec, 'status', 'dead', unpack(names))
if not at[1] then return {'no_record'} end
if not (at[1] == 'failed' and at[2]) then return {'not_dead'} end
local answer = {'dead'}
for place, name in ipairs(names) do
  if at[place + 2] then
    answer[#answer + 1] = name == 'finished_ms' and 'died_ms' or name
    answer[#answer + 1] = at[place + 2]
  end
end
if redis.call('HSTRLEN', rec, 'request') <= tonumber(bytes_max) then
  answer[#answer + 1] = 'request'
  answer[#answer + 1] = redis.call('HGET', rec, 'request')
end
return answer
