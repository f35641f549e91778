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
