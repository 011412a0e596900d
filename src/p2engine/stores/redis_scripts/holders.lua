-- Who lives and holds what a stack owes, besides ARGV[2]: the words each said of itself.
local found, seen = {}, { [ARGV[2]] = true, [''] = true }
for _, effect in ipairs(redis.call('ZRANGE', P .. ':owed:' .. ARGV[1], 0, -1)) do
  local owner = redis.call('HGET', P .. ':effect:' .. effect, 'owner')
  if not seen[owner] then
    seen[owner] = true
    local who = redis.call('GET', P .. ':owner:' .. owner)
    if who then
      found[#found + 1] = who
    end
  end
end
return found
