"""What Redis runs for a decision: `limits` once more, in Lua, so that a decision is one atomic call.

The two must agree to the microsecond; a test holds the one against the other. The time is the Redis server's, so the
clocks of the gateways do not matter. Keys of one call share a hash tag, as a cluster demands. `redis` sends it.

DECIDE: KEYS one for each limit; ARGV for each limit: kind, quota, window or interval in microseconds, depth in
microseconds (gcra) or width of a cell (sliding_window), cost, "1" for a shadow limit; last the member and the length in
microseconds of a lease (concurrency). Returns four numbers for each limit: those of a `Verdict`, allowed as 1 or 0.

RENEW: KEYS sorted sets of leases; ARGV the length of a lease, then a member for each key.
"""

CLOCK = "local t = redis.call('TIME')\nlocal now = t[1] * 1000000 + t[2]\n"

_FUNCTIONS = """
local function whole(x) return string.format('%.0f', x) end
local function numbers(text)
  local found = {}
  for word in string.gmatch(text, '%S+') do
    local number = tonumber(word)
    if number == nil or number ~= number or number % 1 ~= 0 then return nil end
    found[#found + 1] = number
  end
  return found
end
"""

# Each function returns allowed, left, reset, wait, and the state to keep (nil: as it was) with its life.
_GCRA = """
local function gcra(text, interval, depth, cost)
  local arrival = now
  if text then
    local state = numbers(text)
    if state and #state == 1 then arrival = state[1] else arrival = now + depth + 1 end
  end
  local room = depth - math.max(arrival - now, 0)
  local mended = nil
  if room < 0 then room = 0; mended = whole(now + depth) end
  local wanted = cost * interval
  local allowed = wanted <= room
  if allowed then room = room - wanted end
  local left = math.floor(room / interval)
  local reset = (left + 1) * interval - room
  if allowed then return 1, left, reset, 0, whole(now + depth - room), depth - room end
  return 0, left, reset, wanted - room, mended, depth
end
"""

_FIXED = """
local function fixed(text, quota, window, cost)
  local finish, used = 0, 0
  local mended = nil
  if text then
    local state = numbers(text)
    if state and #state == 2 then finish, used = state[1], state[2] else finish, used = now + window + 1, quota end
  end
  if finish <= now then finish, used = now + window, 0
  elseif finish > now + window or used < 0 then
    if used < 0 then used = quota end
    finish = now + window
    mended = whole(finish) .. ' ' .. whole(used)
  end
  if used + cost <= quota then
    used = used + cost
    return 1, quota - used, finish - now, 0, whole(finish) .. ' ' .. whole(used), finish - now
  end
  return 0, math.max(quota - used, 0), finish - now, finish - now, mended, window
end
"""

_SLIDING = """
local function sliding(text, quota, window, cell, cost)
  local horizon, live, used, damaged = now - window, {}, 0, false
  local state = text and numbers(text) or {}
  if text and (not numbers(text) or #state % 2 == 1) then state = {now, quota}; damaged = true end
  for i = 1, #state, 2 do
    local time, count = state[i], state[i + 1]
    if count ~= 0 and time > horizon then
      if time > now or count < 0 then
        if count < 0 then count = quota end
        time = now; damaged = true
      end
      live[#live + 1] = {time, count}
      used = used + count
    end
  end
  table.sort(live, function(a, b) return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2]) end)
  local function packed()
    local flat = {}
    for _, entry in ipairs(live) do flat[#flat + 1] = whole(entry[1]) .. ' ' .. whole(entry[2]) end
    return table.concat(flat, ' ')
  end
  if used + cost > quota then
    local reset, wait, wanted = 0, window, used + cost
    if #live > 0 then reset = live[1][1] - horizon end
    for _, entry in ipairs(live) do
      wanted = wanted - entry[2]
      if wanted <= quota then wait = entry[1] - horizon; break end
    end
    return 0, math.max(quota - used, 0), reset, wait, damaged and packed() or nil, window
  end
  local last = live[#live]
  if last and ((cell > 0 and math.floor(last[1] / cell) == math.floor(now / cell)) or #live == 13) then
    live[#live] = {now, last[2] + cost}
  else
    live[#live + 1] = {now, cost}
  end
  return 1, quota - used - cost, live[1][1] - horizon, 0, packed(), window
end
"""

_MAIN = """
local refused, verdicts, writes = false, {}, {}
local member, lease = ARGV[#KEYS * 6 + 1], tonumber(ARGV[#KEYS * 6 + 2])
for i, key in ipairs(KEYS) do
  local a = (i - 1) * 6
  local kind, quota, window, depth, cost = ARGV[a + 1], tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3]),
    tonumber(ARGV[a + 4]), tonumber(ARGV[a + 5])
  local allowed, left, reset, wait, state, life
  if kind == 'concurrency' then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
    left = quota - redis.call('ZCARD', key)
    if cost > left then
      -- The clock was set back: a lease of somebody who is gone would last until it comes round again.
      for _, late in ipairs(redis.call('ZRANGEBYSCORE', key, '(' .. whole(now + lease), '+inf')) do
        redis.call('ZADD', key, whole(now + lease), late)
      end
    end
    allowed, reset, wait = 1, 0, 0
    if cost <= left then left = left - cost else allowed, left, wait = 0, math.max(left, 0), 1000000 end
  elseif kind == 'gcra' then allowed, left, reset, wait, state, life = gcra(redis.call('GET', key), window, depth, cost)
  elseif kind == 'fixed_window' then
    allowed, left, reset, wait, state, life = fixed(redis.call('GET', key), quota, window, cost)
  else allowed, left, reset, wait, state, life = sliding(redis.call('GET', key), quota, window, depth, cost) end
  if allowed == 0 and ARGV[a + 6] ~= '1' then refused = true end
  writes[i] = {allowed, state, life, kind, cost}
  local v = (i - 1) * 4
  verdicts[v + 1], verdicts[v + 2], verdicts[v + 3], verdicts[v + 4] = allowed, left, reset, wait
end
for i, key in ipairs(KEYS) do
  local allowed, state, life, kind, cost = unpack(writes[i], 1, 5)
  if not (refused and allowed == 1) then
    if state then redis.call('SET', key, state, 'PX', math.max(math.ceil(life / 1000), 1))
    elseif kind == 'concurrency' and allowed == 1 then
      for n = 1, cost do redis.call('ZADD', key, whole(now + lease), member .. ':' .. n) end
      redis.call('PEXPIRE', key, math.ceil(lease / 1000))
    end
  end
end
return verdicts
"""


def decide_script(clock: str = CLOCK) -> str:
    """Return DECIDE; `clock` is the Lua that sets `now`, in microseconds."""
    return clock + _FUNCTIONS + _GCRA + _FIXED + _SLIDING + _MAIN


DECIDE = decide_script()

RENEW = (
    CLOCK
    + """
local lease = tonumber(ARGV[1])
for i, key in ipairs(KEYS) do
  redis.call('ZADD', key, string.format('%.0f', now + lease), ARGV[i + 1])
  redis.call('PEXPIRE', key, math.ceil(lease / 1000))
end
return #KEYS
"""
)
