-- Part of the other scripts: makes a stream and its group where they are absent, and names a new generation when the
-- stream's contents are gone (FLUSHALL, a restart, eviction, expiry) or may be.
local function prepare(stream, generation, group, fresh)
  local gone = redis.call('EXISTS', stream) == 0
  if gone or redis.call('EXISTS', generation) == 0 then
    redis.call('SET', generation, fresh)
  end
  if gone then
    redis.call('XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM')
  end
end

-- Lets a stream expire unless it is used again within so many seconds.
local function keep(stream, generation, seconds)
  redis.call('EXPIRE', stream, seconds)
  redis.call('EXPIRE', generation, seconds)
end

-- The most tickets in one entry that those who take from the stream want, and who says so: the one that wants the fewest.
local function wanted(bundle)
  local said = redis.call('GET', bundle)
  if not said then
    return 1
  end
  local most, by = string.match(said, '^(%d+) (.*)$')
  return tonumber(most), by
end
