#!lua flags=allow-oom
-- finish: writes terminal entry, outcome, status and lifetime in one step, so that none is seen without the others.
-- Only the owner of the recorded attempt may call it. Idempotent: sent again after a lost reply it changes nothing.
-- It also records what the dead-letter list needs, so that add_dead_letter.lua can be repeated after it.
-- allow-oom: an end is written even when the server is out of memory, because it frees more than it takes.
-- KEYS rec log   ARGV attempt token terminal_id terminal outcome status failures error (JSON, empty: none)
--   dead (1: it belongs on the dead-letter list) keep_record_ms (the record lives at least this long, because its
--   outcome waits for a database)
-- -> finished | already_done | stale attempt | ended status (in another way) | unknown | gap last_id
local at = redis.call('HMGET', rec, 'status', 'attempt', 'token', 'retention_ms')
if not at[1] or redis.call('EXISTS', log) == 0 then return {'unknown'} end
local owns = at[2] == attempt and at[3] == token
if is_terminal(at[1]) then
  if owns and at[1] == status then return {'already_done'} end
  return {'ended', 'status', at[1]}
end
if not owns then return {'stale', 'attempt', at[2]} end
-- The terminal entry follows the last entry without a gap: entries the log lacks must be written first.
local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
local of_attempt, seq = string.match(terminal_id, '^(%d+)-(%d+)$')
if not last or last[1] ~= of_attempt .. '-' .. string.format('%d', tonumber(seq) - 1) then
  return {'gap', 'last_id', last and last[1] or ''}
end
local now = now_ms()
append(log, tonumber(of_attempt), tonumber(seq), terminal)
redis.call('HSET', rec, 'status', status, 'outcome', fill_time(outcome, 'finished_at', now), 'finished_ms', now,
  'failures', failures)
if error ~= '' then redis.call('HSET', rec, 'error', error) end
if dead == '1' then redis.call('HSET', rec, 'dead', 1) end
redis.call('PEXPIRE', rec, math.max(tonumber(at[4]), tonumber(keep_record_ms)))
redis.call('PEXPIRE', log, at[4])
return {'finished'}
