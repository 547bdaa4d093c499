#!/usr/bin/env bash
# Measures a collector as it runs on an edge gateway: a few MQTT devices behind a real mosquitto, a few Modbus devices, each
# every ten seconds, for some minutes. What counts there is memory, how often the processor is woken, what the flash has to
# take, and the size of the binary.
#
#   benches/edge.sh                                      50 and 50 devices for 180 s
#   benches/edge.sh --mqtt 100 --modbus 0 --for 600s
#
#   --mqtt N (3 or more, or 0)  --modbus N  --interval SECONDSs  --for SECONDSs
#   --keep (leaves the folder)  --perf (samples the collector)
#
# SITEPULSE_COLLECTOR is the binary that is measured (default: target/gateway/sitepulse, from
# `cargo build --profile gateway --no-default-features`), SITEPULSE_BIN the one that makes the load (default:
# target/release/sitepulse). Needs mosquitto and curl, no root. CPU times are those of /proc, with a resolution of 0.01 s; the
# system's share holds what the disk's syncs cost there.
set -euo pipefail
cd "$(dirname "$0")/.."

mqtt_devices=50 modbus_devices=50 interval=10 span=180 keep= perf=
usage() { sed -n '2,16s/^# \{0,1\}//p' "$0"; exit "${1:-2}"; }
while (($#)); do
  case $1 in
    --mqtt) mqtt_devices=$2; shift ;;
    --modbus) modbus_devices=$2; shift ;;
    --interval) interval=${2%s}; shift ;;
    --for) span=${2%s}; shift ;;
    --keep) keep=1 ;;
    --perf) perf=1 ;;
    -h | --help) usage 0 ;;
    *) printf 'no option %s\n' "$1" >&2; usage ;;
  esac
  shift
done
[[ $mqtt_devices =~ ^[0-9]+$ && $modbus_devices =~ ^[0-9]+$ && $interval =~ ^[0-9]+$ && $span =~ ^[0-9]+$ ]] || usage

bin=$(realpath "${SITEPULSE_BIN:-target/release/sitepulse}")
collector_bin=$(realpath "${SITEPULSE_COLLECTOR:-target/gateway/sitepulse}")
[ -x "$bin" ] || { echo "no $bin: cargo build --release" >&2; exit 1; }
[ -x "$collector_bin" ] || { echo "no $collector_bin: cargo build --profile gateway --no-default-features" >&2; exit 1; }
name=edge
. benches/lib.sh

# What the broker has by default.
inflight=20
start_broker
park=()
if ((modbus_devices)); then
  port=$(free_port "$modbus_devices")
  : >"$folder/devices.log"
  "$bin" simulate modbus --devices "$modbus_devices" --port "$port" >"$folder/devices.out" 2>"$folder/devices.log" &
  started+=($!)
  wait_until "the devices" 20 grep -q listening "$folder/devices.log"
  park=(--modbus-devices "$modbus_devices" --modbus-port "$port" --modbus-interval "${interval}s")
fi
api=$(free_port)
"$bin" simulate inventory --sites "$mqtt_devices" --interval "${interval}s" --broker "mqtt://127.0.0.1:$mqtt" \
  --listen "127.0.0.1:$api" "${park[@]}" --out "$folder/gateway" >/dev/null
"$collector_bin" run --config "$folder/gateway" >"$folder/collector.log" 2>&1 &
collector=$!; started+=("$collector")
wait_until "the collector" 30 curl -sf -o /dev/null "http://127.0.0.1:$api/ready"
if ((mqtt_devices)); then
  "$bin" simulate --broker "mqtt://127.0.0.1:$mqtt" --sites "$mqtt_devices" --rate "$(calc "$mqtt_devices / $interval" 3)" \
    --for "$((span + interval + 30))s" --json >"$folder/load.json" 2>"$folder/simulate.log" &
  started+=($!)
fi
# Every device has been heard once, and the page has been looked at.
sleep $((interval + 5))
curl -sf -o /dev/null "http://127.0.0.1:$api/"
metrics >"$folder/begin"
rss_0=$(memory_of "$collector" VmRSS)
threads_of "$collector" >"$folder/threads-0"
cpu_0=($(cpu_of "$collector")) written_0=$(written_by "$collector")
start_perf 999
sleep "$span"
cpu_1=($(cpu_of "$collector")) written_1=$(written_by "$collector")
threads_of "$collector" >"$folder/threads-1"
stop_perf
rss_1=$(memory_of "$collector" VmRSS) peak=$(memory_of "$collector" VmHWM)
anonymous=$(memory_of "$collector" RssAnon)
metrics >"$folder/end"

grown() { echo $(($(value "$1" <"$folder/end") - $(value "$1" <"$folder/begin"))); }
line() { printf '%-46s %s\n' "$@"; }
user=$(calc "(${cpu_1[0]} - ${cpu_0[0]}) / 100") system=$(calc "(${cpu_1[1]} - ${cpu_0[1]}) / 100")
echo "$mqtt_devices MQTT and $modbus_devices Modbus devices every $interval s, $span s; $(nproc) cores, load $(cut -d' ' -f1-3 /proc/loadavg)"
line "messages, polls" "$(grown sitepulse_mqtt_messages), $(grown sitepulse_modbus_polls)"
line "CPU, % of a core" "$(calc "($user + $system) * 100 / $span")  ($(calc "$user * 100 / $span") user, $(calc "$system * 100 / $span") system)"
line "RSS, MiB: at the peak, at the end" "$(calc "$peak / 1024" 1), $(calc "$rss_1 / 1024" 1)  ($(calc "$anonymous / 1024" 1) of it not of files; grew by $(calc "($rss_1 - $rss_0) / 1024" 1))"
line "waits of all threads per s" "$(awk -v span="$span" 'NR == FNR { sum -= $4; next } { sum += $4 } END { printf "%.1f", sum / span }' "$folder/threads-0" "$folder/threads-1")"
line "syncs of the journal, flushes per min" "$(calc "$(grown sitepulse_journal_syncs) * 60 / $span" 0), $(calc "$(grown sitepulse_pipeline_flushes) * 60 / $span" 1)"
line "bytes written per min" "$(calc "($written_1 - $written_0) * 60 / $span" 0)"
line "binary, MB (stripped)" "$(calc "$(stat -c %s "$collector_bin") / 1e6" 1) ($(strip -o "$folder/stripped" "$collector_bin" 2>/dev/null && calc "$(stat -c %s "$folder/stripped") / 1e6" 1 || echo -))"
line "polls late, not answered, shed; ledger balanced" "$(grown sitepulse_modbus_late_polls), $(grown sitepulse_modbus_timeouts), $(grown sitepulse_modbus_polls_shed); $(value sitepulse_ledger_balanced <"$folder/end")"
echo
threads_table "threads: % of a core" "100 / $span" "$span"
perf_table 70
