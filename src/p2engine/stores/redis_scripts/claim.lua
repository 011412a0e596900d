-- Takes an effect: { 'ok', body, tries, started, rows, followers }; nil where it is settled or held by another who lives.
local effect, owner, since = ARGV[1], ARGV[2], tonumber(ARGV[3])
local epoch = moved_on(tonumber(ARGV[4]), tonumber(ARGV[5]))
if epoch then
  return { 'epoch', epoch }
end
local key = P .. ':effect:' .. effect
local found = redis.call('HMGET', key, 'owner', 'tries', 'started', 'body')
if not found[4] then
  return nil
end
local holder, tries = found[1], tonumber(found[2])
if holder ~= owner then
  if holder ~= '' and alive(holder) then
    return nil
  end
  let_go(effect, holder)
  take(effect, owner)
  tries = redis.call('HINCRBY', key, 'tries', 1)
end
local followers = redis.call('PUBSUB', 'NUMSUB', P .. ':news:' .. ref_of(effect))[2]
return { 'ok', found[4], tries, tonumber(found[3]), rows(ref_of(effect), since) or {}, followers }
