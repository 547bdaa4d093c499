#!/usr/bin/env bash
# Measures a collector that polls Modbus TCP devices, end to end: `sitepulse simulate modbus` answers, the real binary polls.
# In the same run a bare poller (tokio-modbus in a task per connection, and nothing else) polls the same devices at the same
# pace, so that figures can be read as ratios.
#
#   benches/modbus.sh                                    1,000 devices at ports of their own, 60 registers every second
#   benches/modbus.sh --units-per-port 100               the same, a hundred behind each port
#   benches/modbus.sh --devices 50 --interval 10s --for 120s
#
#   --devices N  --units-per-port N  --registers N (of each, up to 125)  --interval DURATION  --for SECONDSs
#   --step DURATION (the bare poller polls together what is due within this; the collector does so within 10 ms)
#   --keep (leaves the folder)  --perf (samples the collector)
#
# SITEPULSE_BIN is the binary (default: target/release/sitepulse), SITEPULSE_COLLECTOR another one for the collector alone,
# such as a build without `demo`. Needs curl, no root. CPU times are those of /proc, so they hold on a machine that is busy;
# how late polls begin holds on an idle one only.
set -euo pipefail
cd "$(dirname "$0")/.."

devices=1000 units=1 registers=60 interval=1s step=0s span=60 keep= perf=
usage() { sed -n '2,17s/^# \{0,1\}//p' "$0"; exit "${1:-2}"; }
while (($#)); do
  case $1 in
    --devices) devices=$2; shift ;;
    --units-per-port) units=$2; shift ;;
    --registers) registers=$2; shift ;;
    --interval) interval=$2; shift ;;
    --step) step=$2; shift ;;
    --for) span=${2%s}; shift ;;
    --keep) keep=1 ;;
    --perf) perf=1 ;;
    -h | --help) usage 0 ;;
    *) printf 'no option %s\n' "$1" >&2; usage ;;
  esac
  shift
done
[[ $devices =~ ^[0-9]+$ && $units =~ ^[0-9]+$ && $registers =~ ^[0-9]+$ && $span =~ ^[0-9]+$ ]] || usage

bin=$(realpath "${SITEPULSE_BIN:-target/release/sitepulse}")
collector_bin=$(realpath "${SITEPULSE_COLLECTOR:-$bin}")
[ -x "$bin" ] || { echo "no $bin: cargo build --release" >&2; exit 1; }
name=modbus
. benches/lib.sh
ports=$(((devices + units - 1) / units))
# A connection each, at both ends.
ulimit -n "$(ulimit -H -n)"
port=$(free_port "$ports")
shape=(--devices "$devices" --units-per-port "$units" --registers "$registers" --port "$port")

: >"$folder/devices.log" >"$folder/poll.log"
"$bin" simulate modbus "${shape[@]}" >"$folder/devices.json" 2>"$folder/devices.log" &
served=$!; started+=("$served")
wait_until "the devices" 20 grep -q listening "$folder/devices.log"

# 1. the bare poller; both are looked at for the same time, after as long as it takes them to get under way
warm=5
"$bin" simulate poll "${shape[@]}" --interval "$interval" --step "$step" --for "${span}s" --json >"$folder/poll.json" 2>"$folder/poll.log" &
poller=$!; started+=("$poller")
wait_until "the poller" 20 grep -q polling "$folder/poll.log"
sleep $((span - 1))
bare_rss=$(memory_of "$poller" VmHWM)
wait "$poller"

# 2. the collector
api=$(free_port)
"$bin" simulate inventory --sites 0 --modbus-devices "$devices" --units-per-port "$units" --registers "$registers" \
  --modbus-port "$port" --modbus-interval "$interval" --listen "127.0.0.1:$api" --out "$folder/park" >/dev/null
"$collector_bin" run --config "$folder/park" >"$folder/collector.log" 2>&1 &
collector=$!; started+=("$collector")
wait_until "the collector" 30 curl -sf -o /dev/null "http://127.0.0.1:$api/ready"
all_up() { [ "$(metrics | grep -c '^sitepulse_part_state{kind="modbus".* 3$')" -eq "$ports" ]; }
wait_until "its connections" $((${interval%s} + 20)) all_up
sleep $warm
metrics >"$folder/begin"
cpu_0=($(cpu_of "$collector")) written_0=$(written_by "$collector")
threads_of "$collector" >"$folder/threads-0"
start_perf 499
sleep "$span"
cpu_1=($(cpu_of "$collector")) written_1=$(written_by "$collector")
threads_of "$collector" >"$folder/threads-1"
stop_perf
metrics >"$folder/end"
rss=$(memory_of "$collector" VmHWM)

# 3. the table
grown() { echo $(($(value "$1" <"$folder/end") - $(value "$1" <"$folder/begin"))); }
polls=$(grown sitepulse_modbus_polls)
quantile() { # share of the polls: milliseconds after their slot within which they began
  local end within
  for end in 2 5 10 20 50 100; do
    within=$(grown "sitepulse_modbus_polls_begun_within_${end}_ms")
    if awk "BEGIN { exit !($within >= $1 * $polls) }"; then echo "<= $end ms"; return; fi
  done
  echo "> 100 ms"
}
user=$(calc "(${cpu_1[0]} - ${cpu_0[0]}) / 100") system=$(calc "(${cpu_1[1]} - ${cpu_0[1]}) / 100")
bare_polls=$(json polls "$folder/poll.json")
bare_user=$(json cpu_user_s "$folder/poll.json") bare_system=$(json cpu_system_s "$folder/poll.json")
each() { calc "$1 * 1e6 / ($2 + 1e-9)" 1; }
full_all=$(each "($user + $system)" "$polls") bare_all=$(each "($bare_user + $bare_system)" "$bare_polls")
echo "$devices devices at $ports ports, $registers registers every $interval, $span s, bare step $step; $(nproc) cores, load $(cut -d' ' -f1-3 /proc/loadavg)"
row "" collector "bare poller" ratio
row "polls" "$polls" "$bare_polls" ""
row "CPU us per poll" "$full_all" "$bare_all" "$(per "$full_all" "$bare_all")"
row "  user" "$(each "$user" "$polls")" "$(each "$bare_user" "$bare_polls")" ""
row "  system" "$(each "$system" "$polls")" "$(each "$bare_system" "$bare_polls")" ""
row "cores used" "$(calc "($user + $system) / $span" 3)" "$(calc "($bare_user + $bare_system) / $span" 3)" ""
row "polls begun after their instant, p50" "$(quantile 0.5)" "<= $(json delay_ms_p50 "$folder/poll.json") ms" ""
row "  p99" "$(quantile 0.99)" "<= $(json delay_ms_p99 "$folder/poll.json") ms" ""
row "  the latest, ms" "$(awk '/^sitepulse_modbus_poll_delay_ms_max/ && $2 > max { max = $2 } END { print max + 0 }' "$folder/end")" "" ""
row "polls skipped, not answered, shed" "$(grown sitepulse_modbus_late_polls), $(grown sitepulse_modbus_timeouts), $(grown sitepulse_modbus_polls_shed)" "-, $(json failures "$folder/poll.json"), -" ""
row "peak RSS, MiB" "$(calc "$rss / 1024" 0)" "$(calc "$bare_rss / 1024" 0)" ""
row "syncs of the journal per s" "$(calc "$(grown sitepulse_journal_syncs) / $span" 1)" "" ""
row "bytes written per poll" "$(calc "($written_1 - $written_0) / ($polls + 1e-9)" 0)" "" ""
row "readings applied" "$(grown sitepulse_readings_applied_total)" "" ""
row "ledger balanced" "$(value sitepulse_ledger_balanced <"$folder/end")" "" ""
echo
threads_table "the collector's threads: us per poll" "1e6 / ($polls + 1e-9)" "$span"
perf_table 70
