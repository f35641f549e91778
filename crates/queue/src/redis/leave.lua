-- Gives back what a consumer holds and removes its name, unless it still holds something.
-- KEYS: streams. ARGV: group, consumer, the name that holds what was returned, its idle time in milliseconds
local group, consumer, returned, idle = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
for _, stream in ipairs(KEYS) do
  local held = redis.pcall('XPENDING', stream, group, '-', '+', 1000, consumer)
  if not held.err then
    if #held > 0 then
      local ids = {}
      for i, entry in ipairs(held) do
        ids[i] = entry[1]
      end
      local claim = {'XCLAIM', stream, group, returned, 0, unpack(ids)}
      for _, option in ipairs({'IDLE', idle, 'JUSTID'}) do
        claim[#claim + 1] = option
      end
      redis.call(unpack(claim))
    end
    if #redis.call('XPENDING', stream, group, '-', '+', 1, consumer) == 0 then
      redis.call('XGROUP', 'DELCONSUMER', stream, group, consumer)
    end
  end
end
