-- How many effects no living process holds, and when the oldest of them came to be owed, in microseconds; 0: none.
local count, oldest = 0, 0
local function see(effects)
  count = count + #effects
  for place = 1, math.min(#effects, 1000) do
    local born = tonumber(redis.call('HGET', P .. ':effect:' .. effects[place], 'born') or '0')
    if born > 0 and (oldest == 0 or born < oldest) then
      oldest = born
    end
  end
end
see(redis.call('ZRANGE', P .. ':free', 0, -1))
for _, owner in ipairs(redis.call('SMEMBERS', P .. ':holders')) do
  if not alive(owner) then
    see(redis.call('SMEMBERS', P .. ':held:' .. owner))
  end
end
return { 'ok', count, id_of(oldest) }
