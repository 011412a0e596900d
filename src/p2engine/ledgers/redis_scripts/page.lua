-- Records from a number on: id, body, link and seal of each, one after the other. ARGV: that number, how many.
local found = {}
for _, entry in ipairs(redis.call('XRANGE', KEYS[1] .. ':records', ARGV[1] .. '-0', '+', 'COUNT', ARGV[2])) do
  local fields = {}
  for place = 1, #entry[2], 2 do
    fields[entry[2][place]] = entry[2][place + 1]
  end
  for _, value in ipairs({ entry[1], fields.body or '', fields.link or '', fields.seal or '' }) do
    found[#found + 1] = value
  end
end
return found
