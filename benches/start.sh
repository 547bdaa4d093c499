#!/usr/bin/env bash
# Measures a start after a crash with minutes of a whole city in the journal that the store has not passed: time from the
# start of the process to /ready, and what it took.
#
#   benches/start.sh                         75,000 sites, five minutes at 7,500 messages a second
#   benches/start.sh --sites 1000 --rate 100 --for 60s
#
# The store is locked from outside meanwhile, so that the journal has to keep everything; then the collector is killed.
# SITEPULSE_BIN is the binary (default: target/release/sitepulse). Needs mosquitto, curl and python3, no root.
set -euo pipefail
cd "$(dirname "$0")/.."

sites=75000 rate=7500 span=300
usage() { sed -n '2,10s/^# \{0,1\}//p' "$0"; exit "${1:-2}"; }
while (($#)); do
  case $1 in
    --sites) sites=$2; shift ;;
    --rate) rate=$2; shift ;;
    --for) span=${2%s}; shift ;;
    -h | --help) usage 0 ;;
    *) printf 'no option %s\n' "$1" >&2; usage ;;
  esac
  shift
done

bin=$(realpath "${SITEPULSE_BIN:-target/release/sitepulse}")
[ -x "$bin" ] || { echo "no $bin: cargo build --release" >&2; exit 1; }
name=start
. benches/lib.sh

start_broker
api=$(free_port)
"$bin" simulate inventory --sites "$sites" --broker "mqtt://127.0.0.1:$mqtt" --listen "127.0.0.1:$api" --out "$folder/city" >/dev/null
export SITEPULSE__JOURNAL__BYTES_MAX=4GiB
collect() { "$bin" run --config "$folder/city" >>"$folder/collector.log" 2>&1 & collector=$!; started+=("$collector"); }
collect
wait_until "the collector" 60 curl -sf -o /dev/null "http://127.0.0.1:$api/ready"
wait_until "the collector's subscription" 30 subscribed
: >"$folder/lock"
python3 -c '
import sqlite3, sys, time
store = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
store.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
time.sleep(86400)
' "$(find "$folder/city" -name sitepulse.db)" >"$folder/lock" & lock=$!; started+=("$lock")
wait_until "the lock" 30 grep -q locked "$folder/lock"
load "$folder/load.json"
sent=$(json messages "$folder/load.json")
all_heard() { [ "$(metrics | value sitepulse_mqtt_acks)" -ge "$sent" ]; }
wait_until "the last acknowledgement" 60 all_heard
kill -KILL "$collector"; wait "$collector" 2>/dev/null || true
stop "$lock"
stop "$broker"
journal=$(du -sb "$(find "$folder/city" -type d -name journal)" | cut -f1)

begun=$(date +%s.%N)
collect
until curl -sf -o /dev/null "http://127.0.0.1:$api/ready"; do
  kill -0 "$collector" || { tail -n 5 "$folder/collector.log" >&2; exit 1; }
  sleep 0.02
done
ready=$(date +%s.%N)
metrics >"$folder/end"
row "messages in the journal" "$sent"
row "its size, MiB" "$(calc "$journal / 1048576" 0)"
row "from the start of the process to ready, s" "$(calc "$ready - $begun")"
row "CPU s of it" "$(calc "($(cpu_of "$collector" | tr ' ' '+')) / 100")"
row "peak RSS, MiB" "$(calc "$(memory_of "$collector" VmHWM) / 1024" 0)"
row "flushes" "$(value sitepulse_pipeline_flushes <"$folder/end")"
row "messages in the store" "$(value sitepulse_pipeline_stored_messages <"$folder/end")"
row "readings applied" "$(value sitepulse_readings_applied_total <"$folder/end")"
row "ledger balanced" "$(value sitepulse_ledger_balanced <"$folder/end")"
