-- Appends to the ledger, all or nothing, where its head is still the one that was read.
-- ARGV: that head ('' for none), the new head, and what is new: rows, each kind after the number of its rows.
local P, at = KEYS[1], 2
if (redis.call('GET', P .. ':head') or '') ~= ARGV[1] then
  return 'moved'
end
local function take()
  at = at + 1
  return ARGV[at]
end
for line = 1, tonumber(take()) do -- number, id, body, link, seal, the keys that it is found by
  local seq, order = take(), take()
  local added = redis.pcall('XADD', P .. ':records', seq .. '-0', 'body', take(), 'link', take(), 'seal', take())
  if line == 1 and type(added) == 'table' then -- nothing is written yet
    return string.find(added.err, 'equal or smaller', 1, true) and 'beyond' or added
  end
  redis.call('HSET', P .. ':ids', order, seq)
  for _ = 1, tonumber(take()) do
    redis.pcall('XADD', take(), seq .. '-0', '', '') -- one that is ahead was put there by somebody: an audit finds it
  end
end
for _ = 1, tonumber(take()) do -- key, field, value
  redis.call('HSET', take(), take(), take())
end
for _ = 1, tonumber(take()) do
  redis.call('SADD', P .. ':books', take())
end
if take() == '1' then -- number, root, time, signature; one of as many records that is there already is as good
  redis.pcall('XADD', P .. ':checkpoints', take() .. '-0', 'root', take(), 'at', take(), 'signature', take())
end
redis.call('SET', P .. ':head', ARGV[2])
return 'ok'
