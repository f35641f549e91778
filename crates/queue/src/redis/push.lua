-- Adds tickets up to the window, as many to an entry as consumers want them.
-- KEYS: stream, generation, bundle. ARGV: group, fresh generation, window, seconds to keep the stream, id, id, …
-- Returns how many were added (the first ones), how many entries there are, and the stream's generation.
prepare(KEYS[1], KEYS[2], ARGV[1], ARGV[2])
keep(KEYS[1], KEYS[2], ARGV[4])
local length = redis.call('XLEN', KEYS[1])
local bundle = wanted(KEYS[3])
local place = 5
while place <= #ARGV and length < tonumber(ARGV[3]) do
  local last = math.min(place + bundle - 1, #ARGV)
  redis.call('XADD', KEYS[1], '*', 'id', table.concat(ARGV, '', place, last))
  place = last + 1
  length = length + 1
end
return {place - 5, length, redis.call('GET', KEYS[2])}
