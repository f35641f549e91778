-- Removes the names of consumers that hold nothing and were silent for long. One that lives after all gets its name
-- back with its next call.
-- KEYS: streams. ARGV: group, milliseconds
for _, stream in ipairs(KEYS) do
  local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, ARGV[1])
  if not consumers.err then
    for _, fields in ipairs(consumers) do
      local consumer = {}
      for i = 1, #fields, 2 do
        consumer[fields[i]] = fields[i + 1]
      end
      if consumer.pending == 0 and consumer.idle > tonumber(ARGV[2]) then
        redis.call('XGROUP', 'DELCONSUMER', stream, ARGV[1], consumer.name)
      end
    end
  end
end
