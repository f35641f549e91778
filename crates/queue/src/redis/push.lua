-- Adds tickets up to the window, as many to an entry as consumers want them.
-- KEYS: stream, generation, bundle. ARGV: group, fresh generation, window, seconds to keep the stream, the most
-- tickets that an entry may have, id, id, …
-- Returns how many were added (the first ones), how many entries there are, and the stream's generation.
prepare(KEYS[1], KEYS[2], ARGV[1], ARGV[2])
keep(KEYS[1], KEYS[2], ARGV[4])
local length = redis.call('XLEN', KEYS[1])
local bundle = math.min(wanted(KEYS[3]), tonumber(ARGV[5]))
local first = 6
local place = first
while place <= #ARGV and length < tonumber(ARGV[3]) do
  local last = math.min(place + bundle - 1, #ARGV)
  redis.call('XADD', KEYS[1], '*', 'id', table.concat(ARGV, '', place, last))
  place = last + 1
  length = length + 1
end
return {place - first, length, redis.call('GET', KEYS[2])}
