-- Says how many tickets a consumer wants in one entry at most; of several, the one that wants the fewest is believed.
-- KEYS: bundles. ARGV: consumer, the most tickets, milliseconds for which that is believed
for _, bundle in ipairs(KEYS) do
  local most, by = wanted(bundle)
  if not by or by == ARGV[1] or tonumber(ARGV[2]) <= most then
    redis.call('SET', bundle, ARGV[2] .. ' ' .. ARGV[1], 'PX', ARGV[3])
  end
end
