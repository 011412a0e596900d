-- Removes at most ARGV[1] rows of what was pruned from the log. Returns { 'ok', how many are sure to be left: 0 or 1 }.
-- What the ledger is the source of stays. May be done any number of times.
local limit, token = tonumber(ARGV[1]), redis.call('HKEYS', P .. ':pruned')[1]
if not token then
  return { 'ok', 0 }
end
local key, log = P .. ':pruned:' .. token, P .. ':log'

local function fact_of(row)
  local entry = redis.call('XRANGE', log, row, row)[1]
  for place = 1, entry and #entry[2] or 0, 2 do
    if entry[2][place] == 'body' then
      local fine, frame = pcall(cmsgpack.unpack, entry[2][place + 1])
      return fine and type(frame) == 'table' and type(frame[2]) == 'table' and frame[2].id and frame[2]
    end
  end
end

local page = redis.call('XRANGE', key, '-', '+', 'COUNT', limit)
for _, entry in ipairs(page) do
  local kind
  for place = 1, #entry[2], 2 do
    kind = entry[2][place] == 'kind' and entry[2][place + 1] or kind
  end
  if not kind or string.sub(kind, 1, 7) ~= 'ledger.' then
    local fact = kind and fact_of(entry[1])
    if fact then
      redis.call('SREM', P .. ':facts', fact.id)
      for _, name in ipairs(fact.known_as or {}) do
        if redis.call('HGET', P .. ':known', name) == entry[1]:match('^%d+') then
          redis.call('HDEL', P .. ':known', name)
        end
      end
    end
    redis.call('XDEL', log, entry[1])
  end
  redis.call('XDEL', key, entry[1])
end
if #page < limit then
  redis.call('UNLINK', key)
  redis.call('HDEL', P .. ':pruned', token)
end
return { 'ok', redis.call('HLEN', P .. ':pruned') > 0 and 1 or 0 }
