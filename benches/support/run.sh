# Of the scripts in benches/, to be sourced: a folder, a broker, and what /proc and /metrics say. Takes $bin, $sites, $rate and
# $span, also $qos, $late, $repeat and $inflight where the script has them.

mosquitto=$(command -v mosquitto || echo /usr/sbin/mosquitto)

folder=$(mktemp -d "${TMPDIR:-/tmp}/sitepulse-city.XXXXXX")
started=()
cleanup() {
  # Only what was started here, and it may be gone already.
  for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${started[@]}"; do wait "$pid" 2>/dev/null || true; done
  if [ -n "${keep:-}" ]; then echo "left: $folder"; else rm -rf "$folder"; fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM

free_port() { # a port that nothing listens at
  local port
  while :; do
    port=$((20000 + RANDOM % 12000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
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

# /proc of a process: user and system CPU in hundredths of a second, peak memory in KiB, bytes that reached the disk.
cpu_of() { awk '{ sub(/.*\) /, ""); print $12, $13 }' "/proc/$1/stat"; }
rss_of() { awk '/^VmHWM/ { print $2 }' "/proc/$1/status"; }
written_by() { awk '/^write_bytes/ { print $2 }' "/proc/$1/io"; }
threads_of() { for task in "/proc/$1/task/"*; do awk -v name="$(<"$task/comm")" '{ sub(/.*\) /, ""); print name, $12, $13 }' "$task/stat" 2>/dev/null || true; done; }

metrics() { curl -sf -m 20 "http://127.0.0.1:$api/metrics"; }
value() { # name of a metric: its sum over all labels
  awk -v name="$1" 'index($1, name "{") == 1 || $1 == name { sum += $2 } END { printf "%d\n", sum }'
}
json() { sed -n "s/.*\"$1\":\([0-9.]*\).*/\1/p" "$2"; }

start_broker() {
  mqtt=$(free_port)
  mkdir -p "$folder/broker"
  printf 'listener %s 127.0.0.1\nallow_anonymous true\nuser %s\npersistence false\nmax_queued_messages 0\nmax_inflight_messages %s\n' \
    "$mqtt" "$(id -un)" "${inflight:-5000}" >"$folder/mosquitto.conf"
  "$mosquitto" -c "$folder/mosquitto.conf" >"$folder/mosquitto.log" 2>&1 &
  broker=$!; started+=("$broker")
  wait_until "the broker" 10 listens "$mqtt"
}
stop() { kill "$1" 2>/dev/null || true; wait "$1" 2>/dev/null || true; }

load() { # file for the summary
  local paced=()
  [ "$rate" = max ] || paced=(--rate "$rate")
  "$bin" simulate --broker "mqtt://127.0.0.1:$mqtt" --sites "$sites" --qos "${qos:-1}" --for "${span}s" --late "${late:-0}" \
    --repeat "${repeat:-0}" "${paced[@]}" --json >"$1" 2>>"$folder/simulate.log"
}
subscribed() { metrics | grep -q 'sitepulse_part_state{kind="mqtt",name="city"} 3'; }
calc() { awk "BEGIN { printf \"%.${2:-2}f\", $1 }"; }
row() { printf '%-46s %14s %14s %8s\n' "$1" "${2:-}" "${3:-}" "${4:-}"; }
