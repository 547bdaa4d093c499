# What the scripts beside this one share: processes that are cleaned up, ports, /proc, /metrics, a broker and its load. To be
# sourced; wants $name.
# shellcheck shell=bash

folder=$(mktemp -d "${TMPDIR:-/tmp}/sitepulse-$name.XXXXXX")
started=()
cleanup() {
  # Only what was started here, and it may be gone already.
  for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${started[@]}"; do wait "$pid" 2>/dev/null || true; done
  if [ -n "${keep:-}" ]; then echo "left: $folder"; else rm -rf "$folder"; fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM
stop() { kill "$1" 2>/dev/null || true; wait "$1" 2>/dev/null || true; }

free_port() { # a port that nothing listens at, and none at the next $1 - 1
  local port count=${1:-1} at
  while :; do
    port=$((20000 + RANDOM % 10000))
    for ((at = port; at < port + count; at++)); do
      if (exec 3<>"/dev/tcp/127.0.0.1/$at") 2>/dev/null; then continue 2; fi
    done
    echo "$port"
    return
  done
}
wait_until() { # what, seconds, command ...
  local what=$1 left=$(($2 * 10)); shift 2
  until "$@"; do
    ((left-- > 0)) || { echo "$what: not in time" >&2; tail -n 5 "$folder"/*.log >&2; exit 1; }
    sleep 0.1
  done
}
listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# /proc of a process: user and system CPU in hundredths of a second, KiB by the name of a line of its status, bytes that
# reached the disk. Of its threads: name, user, system, times that they waited.
cpu_of() { awk '{ sub(/.*\) /, ""); print $12, $13 }' "/proc/$1/stat"; }
memory_of() { awk -v line="$2:" '$1 == line { print $2 }' "/proc/$1/status"; }
written_by() { awk '/^write_bytes/ { print $2 }' "/proc/$1/io"; }
threads_of() {
  local task
  for task in "/proc/$1/task/"*; do
    echo "$(<"$task/comm") $(awk '{ sub(/.*\) /, ""); print $12, $13 }' "$task/stat") $(awk '/^voluntary_ctxt/ { print $2 }' "$task/status")" 2>/dev/null || true
  done
}

# A broker that is sent more than it can do puts off the acknowledgements of its subscriber: they wait by the million in its
# socket while it hands on new messages. So a rate holds only for the time until it has read those too, and rests.
rest_of() { # process: when it began to use no CPU, ten looks of 0.1 s in a row
  local still=0 before="" now since
  while ((still < 10)); do
    now=$(cpu_of "$1")
    if [ "$now" = "$before" ]; then still=$((still + 1)); else since=$(date +%s.%N) before=$now still=0; fi
    sleep 0.1
  done
  echo "$since"
}

metrics() { curl -sf -m 20 "http://127.0.0.1:$api/metrics"; }
value() { # name of a metric: its sum over all labels
  awk -v name="$1" 'index($1, name "{") == 1 || $1 == name { sum += $2 } END { printf "%d\n", sum }'
}
value_now() { # the same of the collector as it is now; fails where it does not answer, which is not 0
  local text
  text=$(metrics) && value "$1" <<<"$text"
}
json() { sed -n "s/.*\"$1\":\([0-9.]*\).*/\1/p" "$2"; }
row() { printf '%-46s %14s %14s %8s\n' "$1" "${2:-}" "${3:-}" "${4:-}"; }
calc() { awk "BEGIN { printf \"%.${2:-2}f\", $1 }"; }
per() { calc "$1 / ($2 + 1e-9)"; }

threads_table() { # title, what a second of CPU counts as, s between $folder/threads-0 and threads-1
  printf '%-46s %14s %14s %8s %8s\n' "$1" user system all waits/s
  awk -v factor="$(calc "$2" 6)" -v span="$3" '
    NR == FNR { user[$1] -= $2; system_[$1] -= $3; waits[$1] -= $4; next }
    { user[$1] += $2; system_[$1] += $3; waits[$1] += $4 }
    END {
      for (name in user) if (user[name] + system_[name] + waits[name] > 0)
        printf "%-46s %14.3f %14.3f %8.3f %8.1f\n", "  " name, user[name] * factor / 100, system_[name] * factor / 100,
          (user[name] + system_[name]) * factor / 100, waits[name] / span
    }' "$folder/threads-0" "$folder/threads-1" | sort -k4,4rn -k5,5rn
}

# Samples of the collector, where they were asked for: begun, ended, and told.
start_perf() { # a second
  if [ -n "$perf" ]; then perf record -q -g -F "$1" -p "$collector" -o "$folder/perf.data" >/dev/null 2>&1 & sampler=$!; started+=("$sampler"); fi
}
stop_perf() { if [ -n "$perf" ]; then kill -INT "$sampler"; wait "$sampler" 2>/dev/null || true; fi; }
perf_table() { # lines
  [ -n "$perf" ] || return 0
  echo
  perf report -i "$folder/perf.data" --no-children --sort comm,symbol -g none --percent-limit 0.7 2>/dev/null | grep -v '^#' | grep -v '^$' | head -n "$1"
}

mosquitto=$(command -v mosquitto || echo /usr/sbin/mosquitto)
start_broker() {
  mqtt=$(free_port)
  mkdir -p "$folder/broker"
  printf 'listener %s 127.0.0.1\nallow_anonymous true\nuser %s\npersistence false\nmax_queued_messages 0\nmax_inflight_messages %s\n' \
    "$mqtt" "$(id -un)" "${inflight:-5000}" >"$folder/mosquitto.conf"
  "$mosquitto" -c "$folder/mosquitto.conf" >"$folder/mosquitto.log" 2>&1 &
  broker=$!; started+=("$broker")
  wait_until "the broker" 10 listens "$mqtt"
}

load() { # file for the summary
  local paced=()
  [ "$rate" = max ] || paced=(--rate "$rate")
  "$bin" simulate --broker "mqtt://127.0.0.1:$mqtt" --sites "$sites" --qos "${qos:-1}" --for "${span}s" --late "${late:-0}" \
    --connections "${connections:-16}" --repeat "${repeat:-0}" "${paced[@]}" --json >"$1" 2>>"$folder/simulate.log"
}
subscribed() { metrics | grep -q 'sitepulse_part_state{kind="mqtt",name="city"} 3'; }
