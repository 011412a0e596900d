-- Takes an effect: { 'ok', body, tries, started, rows, followers }; nil where it is settled or held by another who lives.
local effect, owner, since, lease_us = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local known = tonumber(ARGV[5])
local epoch = moved_on(known, tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8]))
if epoch then
  return { 'epoch', epoch }
end
local key = P .. ':effect:' .. effect
local found = redis.call('HMGET', key, 'owner', 'body')
if not found[2] then
  return nil
end
local holder = found[1]
if holder ~= owner then
  if holder ~= '' then
    beat(lease_us)
    if alive(holder) then
      return nil
    end
  end
  let_go(effect, holder)
  doubt(effect, known)
  take(effect, owner)
  redis.call('HINCRBY', key, 'tries', 1)
end
local state = redis.call('HMGET', key, 'tries', 'started')
local followers = redis.call('PUBSUB', 'NUMSUB', P .. ':news:' .. ref_of(effect))[2]
return { 'ok', found[2], tonumber(state[1]), tonumber(state[2]), rows(ref_of(effect), since) or {}, followers }
