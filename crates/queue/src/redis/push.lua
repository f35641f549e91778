-- Adds tickets up to the window.
-- KEYS: stream, generation. ARGV: group, fresh generation, window, seconds to keep the stream, id, id, …
-- Returns how many were added (the first ones), the stream's length, and its generation.
prepare(KEYS[1], KEYS[2], ARGV[1], ARGV[2])
keep(KEYS[1], KEYS[2], ARGV[4])
local length = redis.call('XLEN', KEYS[1])
local added = 0
while added < #ARGV - 4 and length < tonumber(ARGV[3]) do
  added = added + 1
  length = length + 1
  redis.call('XADD', KEYS[1], '*', 'id', ARGV[4 + added])
end
return {added, length, redis.call('GET', KEYS[2])}
