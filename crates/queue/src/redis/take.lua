-- Takes tickets for a consumer: its own, if it may have lost a reply; those of silent others; then new ones, streams in
-- the order given.
-- (One XREADGROUP over several streams would return up to COUNT of each, whatever room there is.)
-- KEYS: stream, generation, stream, generation, …
-- ARGV: group, consumer, room, fresh generation, milliseconds after which a silent consumer's are taken (0: not now),
-- the most of its own (0: not now), seconds to keep the streams, the most tickets that an entry may have
-- Returns the number of the stream, the entry's id and its tickets (empty if there are none) for each, one after the other.
local group, consumer, room, fresh = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local silent, own, kept = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local most = tonumber(ARGV[8])
local taken = {}
local function hand_out(number, entries)
  for _, entry in ipairs(entries) do
    -- False, or without fields, if it was deleted.
    if entry and entry[2] then
      local fields, last = entry[2], #taken
      taken[last + 1], taken[last + 2] = number, entry[1]
      taken[last + 3] = #fields == 2 and fields[1] == 'id' and fields[2] or ''
      room = room - math.max(#taken[last + 3] / 16, 1)
    end
  end
end

-- So many entries that there is room for all their tickets, however many those are, or else one.
local function fitting()
  return math.max(math.floor(room / most), 1)
end

for key = 1, #KEYS, 2 do
  if own > 0 then
    local reply = redis.pcall('XREADGROUP', 'GROUP', group, consumer, 'COUNT', own, 'STREAMS', KEYS[key], '0')
    if reply and not reply.err then
      hand_out((key + 1) / 2, reply[1][2])
    end
  end
end
for key = 1, #KEYS, 2 do
  if silent > 0 then
    -- Now and then is often enough, and spares the other calls the writes.
    keep(KEYS[key], KEYS[key + 1], kept)
  end
  local from, found = '-', silent > 0
  while found and room > 0 do
    local pending = redis.pcall('XPENDING', KEYS[key], group, 'IDLE', silent, from, '+', fitting())
    found = not pending.err and #pending > 0
    if found then
      local ids = {}
      for i, entry in ipairs(pending) do
        ids[i] = entry[1]
      end
      from = '(' .. ids[#ids]
      hand_out((key + 1) / 2, redis.call('XCLAIM', KEYS[key], group, consumer, silent, unpack(ids)))
    end
  end
end

for key = 1, #KEYS, 2 do
  local found = true
  while found and room > 0 do
    local asked = fitting()
    local reply = redis.pcall('XREADGROUP', 'GROUP', group, consumer, 'COUNT', asked, 'STREAMS', KEYS[key], '>')
    found = reply and not reply.err
    if found then
      hand_out((key + 1) / 2, reply[1][2])
      found = #reply[1][2] == asked
    elseif reply then
      prepare(KEYS[key], KEYS[key + 1], group, fresh)
      keep(KEYS[key], KEYS[key + 1], kept)
      redis.pcall('XGROUP', 'CREATE', KEYS[key], group, '0')
    end
  end
end
return taken
