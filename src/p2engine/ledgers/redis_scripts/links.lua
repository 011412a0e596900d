-- The links of records from a number on. ARGV: that number, how many.
local found = {}
for at, entry in ipairs(redis.call('XRANGE', KEYS[1] .. ':records', ARGV[1] .. '-0', '+', 'COUNT', ARGV[2])) do
  for place = 1, #entry[2], 2 do
    if entry[2][place] == 'link' then
      found[at] = entry[2][place + 1]
    end
  end
end
return found
