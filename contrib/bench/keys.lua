-- Load for wrk: `wrk -s keys.lua URL -- set|get`. Sets or gets 1,000 keys in turn, 32 bytes each, and ends with
-- one line of JSON. Connections share the counter, so every key is somebody's.

local KEYS = 1000
local number = 0

function init(arguments)
  local mode = arguments[1]
  if mode == "set" then
    wrk.method = "PUT"
    wrk.headers["Content-Type"] = "application/x-www-form-urlencoded"
    wrk.body = "value=" .. string.rep("v", 32)
  elseif mode ~= "get" then
    error("give set or get after --")
  end
  requests = {}
  for n = 0, KEYS - 1 do
    requests[n] = wrk.format(nil, "/v2/keys/bench/" .. n)
  end
end

function request()
  number = (number + 1) % KEYS
  return requests[number]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"seconds":%.6f,"failed":%d,"p50_ms":%.3f,"p99_ms":%.3f,"max_ms":%.3f}\n',
    summary.requests, summary.duration / 1e6,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
