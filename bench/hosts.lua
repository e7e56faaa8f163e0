-- Asks for the same page on many hosts, in an order that jumps about. Arguments: hosts in all, hosts that are asked.
local requests, at = {}, 0

function init(args)
  local all, asked = tonumber(args[1]), tonumber(args[2])
  math.randomseed(20260401)
  for i = 1, asked do
    local host = "www.customer-" .. math.random(0, all - 1) .. ".example"
    requests[i] = wrk.format("GET", "/", { Host = host })
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end
