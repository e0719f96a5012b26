-- Part of every script: the server's clock, JSON texts with times to fill in, and appending to a log.
-- A script answers with a status, followed by names and values.

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Milliseconds since 1970 as 2026-01-01T00:00:00.000Z (days to a civil date: H. Hinnant, "chrono-compatible date algorithms").
local function iso(ms)
  local seconds = math.floor(ms / 1000)
  local day = math.floor(seconds / 86400) + 719468
  local era = math.floor(day / 146097)
  local doe = day - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', year, month, doy - math.floor((153 * mp + 2) / 5) + 1,
    math.floor(seconds % 86400 / 3600), math.floor(seconds % 3600 / 60), seconds % 60, ms % 1000)
end

-- Fills the first `"name":<unfilled>` of a JSON text. Quotes inside JSON strings are escaped, so no text can look like it.
local function fill(json, name, unfilled, value)
  local first, last = string.find(json, '"' .. name .. '":' .. unfilled, 1, true)
  if not first then return json end
  return string.sub(json, 1, first - 1) .. '"' .. name .. '":' .. value .. string.sub(json, last + 1)
end

local function fill_time(json, name, ms)
  return fill(json, name, '""', '"' .. iso(ms) .. '"')
end

local function is_terminal(status)
  return status == 'completed' or status == 'incomplete' or status == 'failed' or status == 'cancelled'
end

-- The attempt of the last entry of a log. After a failover it may be higher than the record's: an owner whose start was
-- lost continues to write.
local function last_attempt(log)
  local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  return last and tonumber(string.match(last[1], '^%d+')) or 0
end

-- Appends an entry and publishes it to live readers (schemas/push.py): the message is msgpack of
-- [[id, attempt, seq, [entry]]]. A refused PUBLISH must not stop a script that has written: the log has the entry.
local function append(log, attempt, seq, entry)
  redis.call('XADD', log, 'NOMKSTREAM', string.format('%.0f-%.0f', attempt, seq), ENTRY_FIELD, entry)
  local id = string.match(log, '{(.*)}')
  local shard = tonumber(string.sub(redis.sha1hex(id), 1, 1), 16) % PUSH_SHARDS
  redis.pcall('PUBLISH', PUSH .. shard, '\145\148' .. cmsgpack.pack(id, attempt, seq) .. '\145\198'
    .. struct.pack('>I4', #entry) .. entry)
end
