-- Part of the other scripts: the most tickets in one entry that those who take from a stream want, and who says so.
local function wanted(bundle)
  local said = redis.pcall('GET', bundle)
  local most, by = string.match(type(said) == 'string' and said or '', '^(%d+) (.*)$')
  return math.max(tonumber(most) or 1, 1), by
end
