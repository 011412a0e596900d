-- By which records accounts are found: the ids of each, in words. ARGV: the first number, the last, and their keys.
local found = {}
for place = 3, #ARGV do
  local ids = {}
  for at, entry in ipairs(redis.call('XRANGE', ARGV[place], ARGV[1] .. '-0', ARGV[2] .. '-0')) do
    ids[at] = entry[1]
  end
  found[place - 2] = table.concat(ids, ' ')
end
return found
