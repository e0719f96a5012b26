#!lua flags=allow-oom
-- finish: the terminal entry, the outcome, the status and the lifetime in one step, so that none is seen without the others.
-- Only the owner of the attempt recorded may; sent again after a lost reply it changes nothing.
-- What the dead-letter list needs is noted as well, so that bury.lua can be repeated after it.
-- allow-oom: an end is written even when the server is out of memory: it frees more than it takes.
-- KEYS rec log   ARGV attempt token terminal_id terminal outcome status failures error (JSON, empty: none) dead (1: bury it)
--   hold_ms (the record lives so long at least: its outcome waits for a database)
-- -> finished | again | stale attempt | ended status | unknown | gap last_id
local rec, log = KEYS[1], KEYS[2]
local at = redis.call('HMGET', rec, 'status', 'attempt', 'token', 'retention_ms')
if not at[1] or redis.call('EXISTS', log) == 0 then return {'unknown'} end
local owns = at[2] == ARGV[1] and at[3] == ARGV[2]
if is_terminal(at[1]) then
  if owns and at[1] == ARGV[6] then return {'again'} end
  return {'ended', 'status', at[1]}
end
if not owns then return {'stale', 'attempt', at[2]} end
-- The terminal follows the last entry without a hole: what the log lacks, its owner has to write first.
local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
local attempt, seq = string.match(ARGV[3], '^(%d+)-(%d+)$')
if not last or last[1] ~= attempt .. '-' .. string.format('%d', tonumber(seq) - 1) then
  return {'gap', 'last_id', last and last[1] or ''}
end
local now = now_ms()
append(log, tonumber(attempt), tonumber(seq), ARGV[4])
redis.call('HSET', rec, 'status', ARGV[6], 'outcome', fill_time(ARGV[5], 'finished_at', now), 'finished_ms', now,
  'failures', ARGV[7])
if ARGV[8] ~= '' then redis.call('HSET', rec, 'error', ARGV[8]) end
if ARGV[9] == '1' then redis.call('HSET', rec, 'dead', 1) end
redis.call('PEXPIRE', rec, math.max(tonumber(at[4]), tonumber(ARGV[10])))
redis.call('PEXPIRE', log, at[4])
return {'finished'}
