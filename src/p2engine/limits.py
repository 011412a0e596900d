"""Every bound in one place, with its unit and its reason. Knows numbers only."""

from typing import Final

# The machine
ROUNDS_MAX: Final = 50  # model calls in one turn before it ends with `budget`
CALLS_PER_REPLY_MAX: Final = 64  # tool calls and delegations in one model reply; the rest are refused
FAN_OUT_MAX: Final = 16  # delegations in one model reply
DELEGATION_DEPTH_MAX: Final = 8  # a delegates to b delegates to c …
TURN_STEPS_MAX: Final = 400  # outcomes (model replies, tool and agent results) in one turn, children included
TRIES_MAX: Final = 5  # take-overs of one effect before it settles as poison

# Sizes, in bytes of UTF-8
MESSAGE_BYTES_MAX: Final = 1024 * 1024  # one user message
REPLY_BYTES_MAX: Final = 1024 * 1024  # one model reply
ARGUMENTS_BYTES_MAX: Final = 256 * 1024  # the arguments of one call
TOOL_RESULT_BYTES_MAX: Final = 256 * 1024  # one result shown to a model; more is cut, and says so
ARTIFACT_BYTES_MAX: Final = 64 * 1024 * 1024  # one artifact or blob
NAME_BYTES_MAX: Final = 120  # names of conversations, branches, agents, tools, artifacts
REFERENCE_LETTERS_MIN: Final = 4  # the fewest letters that stand for a longer uid, id or hash
REFERENCES_LISTED_MAX: Final = 10  # matches named where there are too many
CONFIG_FILE_BYTES_MAX: Final = 1024 * 1024  # one configuration or project file

# Attempts
TOOL_TIMEOUT_S: Final = 60.0  # one attempt of one tool, unless the tool says otherwise
MODEL_TIMEOUT_S: Final = 120.0  # one attempt of one model call
EVALUATION_TIMEOUT_S: Final = 300.0  # one verdict, unless its evaluation says otherwise, all its samples included
DECISION_TIMEOUT_S: Final = 1800.0  # one decision of one agent, all attempts of its model included
MODEL_ATTEMPTS_MAX: Final = 5  # attempts of one model call, the first included
RETRY_WAIT_INITIAL_S: Final = 0.5  # before the second attempt of a model call; then it doubles
RETRY_WAIT_MAX_S: Final = 30.0  # between two attempts of a model call
RETRY_AFTER_MAX_S: Final = 120.0  # a provider that asks for more is an error, not a wait

# The runtime
CONCURRENT_EFFECTS_MAX: Final = 1000  # effects in flight in one process
BLOCKING_TOOLS_MAX: Final = 32  # threads for `def` tools
MODEL_CONCURRENCY_MAX: Final = 100  # model calls in flight per provider
STACK_CACHE_BYTES_MAX: Final = 10 * 1024 * 1024  # stacks kept in memory, from which those that rest are packed
STACKS_AT_WORK_BYTES_MAX: Final = 64 * 1024 * 1024  # the same, from which those go that are at work
TOOL_CACHE_ENTRIES_MAX: Final = 1024  # results kept for tools with cache_ttl
SWEEP_PERIOD_S: Final = 2.0  # how often the sweeper looks for what a dead process left
SWEEP_PERIOD_SHARED_S: Final = 5.0  # the same where many processes do: each look costs the store they share
SWEEP_JOBS_MAX: Final = 500  # jobs one sweep hands out
RELEASES_MAX: Final = 3  # how often an effect whose tool is not loaded here is handed back before it fails
MISFITS_MAX: Final = 12  # how often one of many workers hands back a call of a tool that it has with other arguments
RELEASED_KEPT_MAX: Final = 4096  # effects handed back that one process counts; the oldest are counted anew
FOLLOW_PERIOD_S: Final = 0.25  # how often somebody who waits for a reply looks for what another process wrote
PROBE_TIMEOUT_S: Final = 3.0  # how long a probe waits for the store or the broker
SHUTDOWN_GRACE_S: Final = 5.0  # how long running effects may end by themselves at close

# Several processes and machines
LEASE_S: Final = 20.0  # a process that did not renew its lease for so long is dead to the others (Redis)
LEASE_RENEWALS: Final = 4  # times a lease is renewed within its length
HANDED_OUT_S: Final = 10.0  # how long an effect on a queue is left there before it is submitted again
RELEASED_S: Final = 5.0  # how long an effect rests that a process gave back
FOLLOW_FIRST_LOOK_S: Final = 0.5  # how soon somebody looks who has just begun to be told of news
FOLLOW_LOOK_S: Final = 10.0  # how often somebody who is told of news looks whether some were missed

# The store
GROUP_COMMIT_MAX: Final = 64  # batches in one flushed commit
CALLS_TOGETHER_MAX: Final = 128  # writes and claims of one process in one round trip to a Redis
TAIL_ROWS_MAX: Final = 500  # rows in one short read of a tail
QUERY_EVENTS_MAX: Final = 10_000  # events one query returns
BRANCHES_KNOWN_MAX: Final = 10_000  # branches whose names a process remembers that reads the log of a Redis
BUSY_WAIT_S: Final = 15.0  # how long a write waits for another process before StoreBusy
BODY_UNUSED_S: Final = 3600.0  # how long nobody has put a body that pruning may forget: its name may be on its way

# The ledger
REASON_BYTES_MAX: Final = 1000  # the reason of one transfer
RECORDS_MAX: Final = 10_000  # records one query returns
BOOKED_AT_ONCE: Final = 250  # records or model calls that the bookkeeper takes at once
MARK_RECORDS: Final = 256  # records after which the log notes how far it holds the ledger
MARK_ROWS: Final = 1024  # rows of the log after which it is noted how far their costs are booked
LEDGER_CHECKPOINT_RECORDS: Final = 1000  # records between two signed checkpoints
LEDGER_ROWS_KEPT_MAX: Final = 10_000  # accounts and limits that a ledger in a file keeps in memory between transactions

# Rollouts
VARIANTS_MAX: Final = 1000  # of one team: a grid multiplies
TRIALS_MAX: Final = 100_000  # of one rollout
TRIALS_AT_ONCE: Final = 32  # of one rollout, unless it says otherwise
TASKS_BYTES_MAX: Final = 16 * 1024 * 1024  # one data set: it is stored with the rollout
