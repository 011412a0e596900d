-- The rows of a stack from entry ARGV[1].since on, or nil where there is no such stack.
local ref, since = ARGV[1], tonumber(ARGV[2])
return rows(ref, since)
