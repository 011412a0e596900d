-- What nobody who lives holds, longest owed first: { effect, kind } each. What it returns counts as handed out.
local limit, handed_out_us, lease_us = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local epoch = moved_on(tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7]))
if epoch then
  return { 'epoch', epoch }
end
beat(lease_us)
for _, owner in ipairs(redis.call('SMEMBERS', P .. ':holders')) do
  if redis.call('EXISTS', P .. ':held:' .. owner) == 0 or not alive(owner) then
    free_all(owner)
  end
end
local time, jobs = now_us(), { 'ok' }
for _, effect in ipairs(redis.call('ZRANGEBYSCORE', P .. ':free', '-inf', id_of(time), 'LIMIT', 0, limit)) do
  jobs[#jobs + 1] = { effect, redis.call('HGET', P .. ':effect:' .. effect, 'kind') }
  redis.call('ZADD', P .. ':free', id_of(time + handed_out_us), effect)
end
return jobs
