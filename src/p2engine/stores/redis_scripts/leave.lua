-- The owner ARGV[1] ends: what it held is due at once.
free_all(ARGV[1])
redis.call('DEL', P .. ':owner:' .. ARGV[1], P .. ':wrote:' .. ARGV[1])
