-- The owner ARGV[1] lives, and says of itself ARGV[2]: its lease lasts for ARGV[3] microseconds from now.
local owner, lease_us = ARGV[1], tonumber(ARGV[3])
beat(lease_us)
redis.call('SET', P .. ':owner:' .. owner, ARGV[2], 'PX', math.floor(lease_us / 1000))
redis.call('PEXPIRE', P .. ':wrote:' .. owner, WROTE_MS)
return { 'ok' }
