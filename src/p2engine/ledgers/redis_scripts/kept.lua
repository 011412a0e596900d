-- All that is kept beside the records, at one moment: head, books with their accounts, scopes, holds, how many ids.
local P = KEYS[1]
local books = {}
for place, book in ipairs(redis.call('SMEMBERS', P .. ':books')) do
  books[place] = { book, redis.call('HGETALL', P .. ':book:' .. book) }
end
local scopes, holds = redis.call('HGETALL', P .. ':scopes'), redis.call('HGETALL', P .. ':holds')
return { redis.call('GET', P .. ':head') or '', books, scopes, holds, redis.call('HLEN', P .. ':ids') }
