-- What the scripts share. KEYS[1] is the prefix of the project; every key below it is listed in docs/store.md.
local P = KEYS[1]
local NO_END = 4503599627370496 -- 2^52
local WROTE_MS = 86400000 -- how long it is known what a process has written that is heard of no more

local function id_of(number) -- as text: Lua would write a great number as 1e+15
  return string.format('%.0f', number)
end

local function now_us()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- An owner whose lease ran out while the server was silent has had no chance to renew it: all are spared for a while.
local function alive(owner)
  if redis.call('EXISTS', P .. ':owner:' .. owner) == 1 then
    return true
  end
  return now_us() < tonumber(redis.call('HGET', P .. ':meta', 'spared') or '0')
end

-- Somebody who lives was heard. Where that was long ago nobody could be, and everybody has one lease to be heard again.
local function beat(lease_us)
  local time = now_us()
  local last = tonumber(redis.call('HGET', P .. ':meta', 'beat') or time)
  if time - last > lease_us / 2 then -- a lease is renewed more often than that
    redis.call('HSET', P .. ':meta', 'spared', id_of(time + lease_us))
  end
  redis.call('HSET', P .. ':meta', 'beat', id_of(time))
end

local function ref_of(effect)
  return string.match(effect, '^([^:]*):')
end

-- The branches that entries since..below of a stack are on, its own first; nil where there is no such stack.
local function lineage(ref, since)
  local path, below = {}, NO_END
  while true do
    local branch = redis.call('HMGET', P .. ':branch:' .. ref, 'parent', 'at')
    if not branch[2] then
      return nil
    end
    local at = tonumber(branch[2])
    path[#path + 1] = { ref, at, below }
    if branch[1] == '' or at <= since then
      return path
    end
    below = math.min(below, at)
    ref = branch[1]
  end
end

-- The rows that hold entries from `since` on: { ref, first entry, entry after the last, row, below, body } each.
local function rows(ref, since)
  local path, found = lineage(ref, since), {}
  if not path then
    return nil
  end
  for place = #path, 1, -1 do
    local on, at, below = path[place][1], path[place][2], path[place][3]
    if at < below then
      local key, first = P .. ':stack:' .. on, since
      local before = redis.call('XREVRANGE', key, id_of(since + 1) .. '-0', '-', 'COUNT', 1)[1]
      if before and tonumber(before[2][4]) > since then
        first = tonumber(string.match(before[1], '^%d+')) - 1
      end
      local last = below < NO_END and id_of(below) .. '-0' or '+'
      for _, entry in ipairs(redis.call('XRANGE', key, id_of(first + 1) .. '-0', last)) do
        local fields = entry[2] -- body, stop, row: in the order in which they were added
        local seq = tonumber(string.match(entry[1], '^%d+')) - 1
        found[#found + 1] = { on, seq, tonumber(fields[4]), tonumber(fields[6]), below, fields[2] }
      end
    end
  end
  return found
end

-- Whoever holds an effect holds it no more.
local function let_go(effect, owner)
  if owner and owner ~= '' then
    redis.call('SREM', P .. ':held:' .. owner, effect)
  end
end

local function hold(effect, owner)
  redis.call('SADD', P .. ':held:' .. owner, effect)
  redis.call('SADD', P .. ':holders', owner)
end

-- What somebody holds is not among what is free.
local function take(effect, owner)
  redis.call('ZREM', P .. ':free', effect)
  hold(effect, owner)
  redis.call('HSET', P .. ':effect:' .. effect, 'owner', owner)
end

-- An effect of an epoch that is over may have been begun, and the mark that says so lost: who takes it up is to know.
local function doubt(effect, epoch)
  local key = P .. ':effect:' .. effect
  if tonumber(redis.call('HGET', key, 'epoch') or '0') ~= epoch then
    redis.call('HSET', key, 'started', 1, 'epoch', id_of(epoch))
  end
end

-- An owner is no more: what it held is anybody's, and due at once.
local function free_all(owner)
  local held = P .. ':held:' .. owner
  for _, effect in ipairs(redis.call('SMEMBERS', held)) do
    local key = P .. ':effect:' .. effect
    redis.call('HSET', key, 'owner', '')
    redis.call('ZADD', P .. ':free', redis.call('HGET', key, 'born'), effect)
  end
  redis.call('DEL', held)
  redis.call('SREM', P .. ':holders', owner)
end

-- A server that went back in time, behind what a client has seen or has written itself, begins an epoch: its rows have
-- greater numbers than any that were ever given. Returns the epoch, when it is not the one the client knows.
-- What others write cannot hide the loss of what the client wrote: each has a count of its own.
local function moved_on(epoch, seen, writer, wrote)
  local meta = redis.call('HMGET', P .. ':meta', 'epoch', 'cursor')
  local current, cursor = tonumber(meta[1] or '0'), tonumber(meta[2] or '0')
  if current > epoch then
    return current
  end
  if cursor < seen or (wrote > 0 and tonumber(redis.call('GET', P .. ':wrote:' .. writer) or '0') < wrote) then
    redis.call('HSET', P .. ':epochs', id_of(epoch + 1), id_of(cursor))
    redis.call('HSET', P .. ':meta', 'epoch', id_of(epoch + 1), 'cursor', id_of((epoch + 1) * 1099511627776))
    return epoch + 1
  end
  return current ~= epoch and current or nil
end
