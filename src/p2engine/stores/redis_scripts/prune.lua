-- Takes a conversation, or branches of it, out of sight: all or nothing, every check before the first write. Returns
-- { 'ok', row } or a refusal. What is then left of it in the log nobody reads; `drain` removes it, a piece at a time.
local plan = cjson.decode(ARGV[1])
local id = plan.conversation

local epoch = moved_on(plan.epoch, plan.seen, plan.writer, plan.wrote)
if epoch then
  return { 'epoch', epoch }
end
if redis.call('SISMEMBER', P .. ':facts', plan.fact.id) == 1 then
  return { 'ok', 0 } -- an earlier attempt, whose answer was lost, did it
end

-- Checks

local known = redis.call('HMGET', P .. ':conversation:' .. id, 'name', 'current')
if not known[1] then
  return { 'no conversation', id }
end
local refs, owed = redis.call('LRANGE', P .. ':branches:' .. id, 0, -1), { 'owed' }
for _, ref in ipairs(refs) do
  for _, effect in ipairs(redis.call('ZRANGE', P .. ':owed:' .. ref, 0, -1)) do
    owed[#owed + 1] = effect
  end
end
if #owed > 1 then
  return owed
end
local log = P .. ':log:' .. id
local newest = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
if (newest and string.match(newest[1], '^%d+') or '0') ~= plan.row or #refs ~= plan.branches then
  return { 'moved', id }
end
if plan.keeps then
  if not plan.keeps[known[2]] then
    return { 'current', known[2] }
  end
  for _, ref in ipairs(refs) do
    local branch = redis.call('HMGET', P .. ':branch:' .. ref, 'parent', 'at')
    if plan.keeps[ref] and branch[1] ~= '' and (plan.keeps[branch[1]] or 0) < tonumber(branch[2]) then
      return { 'rooted', ref, branch[1], branch[2] }
    end
  end
end

-- Writes

local token = redis.call('HINCRBY', P .. ':meta', 'cursor', 1)
token = id_of(token)

local function forget(ref)
  redis.call('UNLINK', P .. ':branch:' .. ref, P .. ':stack:' .. ref, P .. ':owed:' .. ref)
end

local function xdel(key, ids)
  for first = 1, #ids, 1000 do
    redis.call('XDEL', key, unpack(ids, first, math.min(first + 999, #ids)))
  end
end

local function remove_all()
  for _, ref in ipairs(refs) do
    forget(ref)
  end
  redis.call('UNLINK', P .. ':branches:' .. id, P .. ':branch-names:' .. id, P .. ':conversation:' .. id)
  redis.call('ZREM', P .. ':conversations', id)
  redis.call('ZREM', P .. ':ungrouped', id)
  redis.call('HDEL', P .. ':names', known[1])
  redis.call('ZREM', P .. ':words', known[1] .. '\0' .. id, id .. '\0' .. id)
  if newest then
    redis.call('RENAME', log, P .. ':pruned:' .. token)
    redis.call('HSET', P .. ':pruned', token, id)
  end
  return tonumber(plan.row)
end

-- A stream that has had a number takes no smaller one, and the next entry shall have one: so it is made anew.
local function shorten(ref, length)
  local key, branch, short = P .. ':stack:' .. ref, P .. ':branch:' .. ref, P .. ':pruned:' .. token .. ':' .. ref
  local next, last = '-', id_of(length) .. '-0' -- entry N has the number N + 1
  repeat
    local page = redis.call('XRANGE', key, next, last, 'COUNT', 100)
    for _, entry in ipairs(page) do
      redis.call('XADD', short, entry[1], unpack(entry[2]))
      next = '(' .. entry[1]
    end
  until #page < 100
  redis.call('UNLINK', key)
  if redis.call('EXISTS', short) == 1 then
    redis.call('RENAME', short, key)
  end
  redis.call('HSET', branch, 'head', math.max(length, tonumber(redis.call('HGET', branch, 'at'))))
end

local function remove_some()
  local named, gone, cut, last = {}, {}, {}, 0
  for _, row in ipairs(plan.rows) do
    named[row] = true
  end
  local next = '-'
  repeat
    local page = redis.call('XRANGE', log, next, '+', 'COUNT', 1000)
    for _, entry in ipairs(page) do
      local fields = {}
      for place = 1, #entry[2], 2 do
        fields[entry[2][place]] = entry[2][place + 1]
      end
      local row, ref, seq = string.match(entry[1], '^%d+'), fields.ref, tonumber(fields.seq)
      local keep = ref ~= '' and (plan.keeps[ref] or -1) or NO_END
      local goes = named[row] and not seq or keep < 0 or (seq and seq >= keep)
      if goes and not (fields.kind and string.sub(fields.kind, 1, 7) == 'ledger.') then
        redis.call('XADD', P .. ':pruned:' .. token, entry[1], unpack(entry[2]))
        gone[#gone + 1] = entry[1]
        last = tonumber(row)
        if seq and keep >= 0 then
          cut[ref] = true
        end
      end
      next = '(' .. entry[1]
    end
  until #page < 1000
  xdel(log, gone)
  if #gone > 0 then
    redis.call('HSET', P .. ':pruned', token, id)
  end
  for ref in pairs(cut) do
    shorten(ref, plan.keeps[ref])
  end
  for _, ref in ipairs(refs) do
    if not plan.keeps[ref] then
      local branch = redis.call('HMGET', P .. ':branch:' .. ref, 'agent', 'name')
      redis.call('HDEL', P .. ':branch-names:' .. id, branch[1] .. '\0' .. branch[2])
      redis.call('LREM', P .. ':branches:' .. id, 0, ref)
      forget(ref)
    end
  end
  return last
end

local last = plan.keeps and remove_some() or not plan.keeps and remove_all()
if last > tonumber(redis.call('HGET', P .. ':meta', 'horizon') or '0') then
  redis.call('HSET', P .. ':meta', 'horizon', id_of(last))
end
redis.call('HINCRBY', P .. ':meta', 'prunes', 1)
local fact, row, of = plan.fact, token .. '-0', plan.keeps and id or ''
redis.call('SADD', P .. ':facts', fact.id)
redis.call('XADD', P .. ':log', row, 'ref', '', 'kind', fact.kind, 'conversation', of, 'body', ARGV[2])
if of ~= '' then
  redis.call('XADD', log, row, 'ref', '', 'kind', fact.kind)
end
return { 'ok', tonumber(token) }
