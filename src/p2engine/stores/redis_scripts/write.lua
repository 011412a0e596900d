-- Writes one batch, all or nothing: every check comes before the first write. Returns { 'ok', row, followers, wrote }
-- or a refusal. followers: how many processes listen to the news of the first stack; wrote: how many batches this one has
-- written.
-- A body is the number of the argument it comes in, since JSON holds no bytes.
local batch = cjson.decode(ARGV[1])
local conversation, owner, again = batch.conversation, batch.owner, batch.again

local epoch = moved_on(batch.epoch, batch.seen, batch.writer, batch.wrote)
if epoch then
  return { 'epoch', epoch }
end

local function head_of(ref)
  local head = redis.call('HGET', P .. ':branch:' .. ref, 'head')
  return head and tonumber(head)
end

-- Whether an earlier attempt, whose answer was lost, wrote this batch: then these very bytes stand in their place.
local function written_before()
  local write, branch = batch.writes[1], batch.branches[1]
  if write then
    local id = id_of(write.head + 1) .. '-0'
    local there = redis.call('XRANGE', P .. ':stack:' .. write.ref, id, id)[1]
    return there and there[2][2] == ARGV[write.body] and tonumber(there[2][6])
  elseif batch.opens then
    return redis.call('HGET', P .. ':conversation:' .. conversation, 'current') == batch.opens.current and 0
  elseif branch then
    return redis.call('EXISTS', P .. ':branch:' .. branch.ref) == 1 and 0
  end
end
if again then
  local row = written_before()
  if row then
    return { 'ok', row, 0, batch.wrote }
  end
end

-- Checks

local born = {}
for _, effect in ipairs(batch.effects) do
  born[effect.id] = true
end
local holders = {} -- of what is settled
for _, effect in ipairs(batch.settles) do
  holders[effect] = redis.call('HGET', P .. ':effect:' .. effect, 'owner')
  if not holders[effect] then
    return { 'settled', effect }
  end
end
for _, effect in ipairs(batch.needs) do
  if redis.call('EXISTS', P .. ':effect:' .. effect) == 0 then
    return { 'settled', effect }
  end
end
for _, effect in ipairs(batch.starts) do
  if not born[effect] then
    local holder = redis.call('HGET', P .. ':effect:' .. effect, 'owner')
    if not holder or (owner ~= '' and holder ~= '' and holder ~= owner) then
      return { 'settled', effect }
    end
  end
end

local fresh, fresh_at = {}, {}
for _, branch in ipairs(batch.branches) do
  local delegate = branch.delegate ~= '' and redis.call('HGET', P .. ':branch:' .. branch.ref, 'delegate')
  if not delegate or delegate ~= branch.delegate then
    fresh[#fresh + 1] = branch
    fresh_at[branch.ref] = branch.at
  end
end

for _, write in ipairs(batch.writes) do
  local head = head_of(write.ref) or fresh_at[write.ref]
  if not head then
    return { 'no stack', write.ref }
  elseif head ~= write.head then
    return { 'head', write.ref, head, head > write.head and head_of(write.ref) and rows(write.ref, write.head) or {} }
  end
end

local function check_names()
  local known = redis.call('EXISTS', P .. ':conversation:' .. conversation) == 1
  local opens = batch.opens
  if not opens and not known then
    return { 'no conversation', conversation }
  elseif opens and (known or redis.call('HEXISTS', P .. ':names', opens.name) == 1) then
    return { 'name', opens.name }
  end
  local names = P .. ':branch-names:' .. conversation
  for _, branch in ipairs(fresh) do
    local name = branch.agent .. '\0' .. branch.name
    if redis.call('EXISTS', P .. ':branch:' .. branch.ref) == 1 or redis.call('HEXISTS', names, name) == 1 then
      return { 'branch name', branch.name, branch.agent }
    end
    if branch.parent ~= '' then
      local head = head_of(branch.parent)
      if not head or branch.at < 0 or branch.at > head then
        return { 'no parent', branch.parent, branch.at }
      end
    end
  end
  local current = batch.current
  if current ~= '' and not fresh_at[current] then
    if redis.call('HGET', P .. ':branch:' .. current, 'conversation') ~= conversation then
      return { 'no branch', current }
    end
  end
end
if batch.opens or #fresh > 0 or batch.current ~= '' then
  local refusal = check_names()
  if refusal then
    return refusal
  end
end

local lost = { 'bodies' }
for _, body in ipairs(batch.bodies) do
  if redis.call('EXISTS', P .. ':blob:' .. body) == 0 then
    lost[#lost + 1] = body
  end
end
if #lost > 1 then
  return lost
end

-- Writes

local wrote = redis.call('INCR', P .. ':wrote:' .. batch.writer)
if wrote == 1 then
  redis.call('PEXPIRE', P .. ':wrote:' .. batch.writer, WROTE_MS)
end
local row, followers = 0, 0
local function next_row()
  row = redis.call('HINCRBY', P .. ':meta', 'cursor', 1)
  return id_of(row) .. '-0'
end

if batch.opens then
  local opens = batch.opens
  local number = redis.call('HINCRBY', P .. ':meta', 'opened', 1)
  redis.call('HSET', P .. ':conversation:' .. conversation, 'name', opens.name, 'agent', opens.agent, 'current',
    opens.current, 'created_at', opens.created_at, 'group', opens.group, 'number', number)
  redis.call('ZADD', P .. ':conversations', number, conversation)
  if opens.group == '' then
    redis.call('ZADD', P .. ':ungrouped', number, conversation)
  end
  redis.call('HSET', P .. ':names', opens.name, conversation)
  redis.call('ZADD', P .. ':words', 0, opens.name .. '\0' .. conversation, 0, conversation .. '\0' .. conversation)
end

for _, branch in ipairs(fresh) do
  redis.call('HSET', P .. ':branch:' .. branch.ref, 'conversation', conversation, 'agent', branch.agent, 'name',
    branch.name, 'parent', branch.parent, 'at', branch.at, 'created_at', branch.created_at, 'delegate',
    branch.delegate, 'head', branch.at)
  redis.call('RPUSH', P .. ':branches:' .. conversation, branch.ref)
  redis.call('HSET', P .. ':branch-names:' .. conversation, branch.agent .. '\0' .. branch.name, branch.ref)
end

for _, write in ipairs(batch.writes) do
  local id, stop = next_row(), write.head + write.count
  local number = id_of(row)
  redis.call('XADD', P .. ':stack:' .. write.ref, id_of(write.head + 1) .. '-0',
    'body', ARGV[write.body], 'stop', stop, 'row', number)
  redis.call('HSET', P .. ':branch:' .. write.ref, 'head', stop)
  local log = { 'ref', write.ref, 'seq', write.head, 'usage', write.usage }
  redis.call('XADD', P .. ':log', id, unpack(log))
  redis.call('XADD', P .. ':log:' .. conversation, id, unpack(log))
  local news = write.head .. ' ' .. ARGV[write.body]
  local heard = redis.call('PUBLISH', P .. ':news:' .. write.ref, news)
  if write.answers then
    redis.call('PUBLISH', P .. ':answers:' .. write.ref, news)
  end
  followers = write == batch.writes[1] and heard or followers
end

for _, fact in ipairs(batch.facts) do
  if redis.call('SADD', P .. ':facts', fact.id) == 1 then
    local id, of = next_row(), fact.conversation
    if of == '' or redis.call('EXISTS', P .. ':conversation:' .. of) == 0 then
      of = fact.ref ~= '' and redis.call('HGET', P .. ':branch:' .. fact.ref, 'conversation') or ''
    end
    local ref = redis.call('EXISTS', P .. ':branch:' .. fact.ref) == 1 and fact.ref or ''
    redis.call('XADD', P .. ':log', id, 'ref', ref, 'kind', fact.kind, 'conversation', of, 'body', ARGV[fact.body])
    if of ~= '' then
      redis.call('XADD', P .. ':log:' .. of, id, 'ref', ref, 'kind', fact.kind)
    end
    for _, name in ipairs(fact.known_as) do
      redis.call('HSETNX', P .. ':known', name, id_of(row))
    end
  end
end

local time, dropped = now_us(), {}
for _, list in ipairs({ batch.settles, batch.drops }) do
  for _, effect in ipairs(list) do
    local holder = list == batch.settles and holders[effect]
      or redis.call('HGET', P .. ':effect:' .. effect, 'owner')
    if list == batch.drops and holder and holder ~= '' and holder ~= owner then
      dropped[#dropped + 1] = effect
    end
    let_go(effect, holder)
    redis.call('DEL', P .. ':effect:' .. effect)
    if holder == '' then
      redis.call('ZREM', P .. ':free', effect)
    end
    redis.call('ZREM', P .. ':owed:' .. ref_of(effect), effect)
  end
end
if #dropped > 0 then
  redis.call('PUBLISH', P .. ':dropped', table.concat(dropped, ' '))
end
for _, effect in ipairs(batch.effects) do
  local holder = effect.left and '' or owner
  redis.call('HSET', P .. ':effect:' .. effect.id, 'kind', effect.kind, 'owner', holder, 'tries', 0, 'started', 0,
    'born', id_of(time), 'body', ARGV[effect.body])
  if batch.epoch > 0 then
    redis.call('HSET', P .. ':effect:' .. effect.id, 'epoch', id_of(batch.epoch))
  end
  redis.call('ZADD', P .. ':owed:' .. ref_of(effect.id), id_of(time), effect.id)
  if holder == '' then
    redis.call('ZADD', P .. ':free', id_of(time + batch.handed_out_us), effect.id)
  else
    hold(effect.id, holder)
  end
end
for _, effect in ipairs(batch.starts) do
  redis.call('HSET', P .. ':effect:' .. effect, 'started', 1)
  if owner ~= '' and redis.call('HGET', P .. ':effect:' .. effect, 'owner') == '' then
    take(effect, owner) -- its lease had lapsed and nobody has taken it since
  end
end
for _, effect in ipairs(batch.releases) do
  local key = P .. ':effect:' .. effect
  local holder = redis.call('HMGET', key, 'owner', 'tries')
  if holder[1] and holder[1] ~= '' and holder[1] == owner then
    let_go(effect, owner)
    redis.call('HSET', key, 'owner', '', 'tries', math.max(0, tonumber(holder[2]) - 1))
    redis.call('ZADD', P .. ':free', id_of(time + batch.released_us), effect)
  end
end
if batch.current ~= '' then
  redis.call('HSET', P .. ':conversation:' .. conversation, 'current', batch.current)
end
return { 'ok', row, followers, wrote }
