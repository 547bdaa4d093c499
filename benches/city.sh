#!/usr/bin/env bash
# Measures a collector under the load of a whole city, end to end: a real mosquitto, the real binary, `sitepulse simulate`.
# In the same run a bare consumer takes the same load through the same broker, so that figures can be read as ratios.
#
#   benches/city.sh                                      75,000 sites at 7,500 messages a second for 60 s
#   benches/city.sh --rate 75000 --for 30s               once a second each
#   benches/city.sh --rate max --for 30s                 as fast as the broker takes them
#   benches/city.sh --sites 1000 --rate 100 --for 60s --qos 0
#
#   --sites N  --rate MSG/S|max  --for SECONDSs  --qos 0|1  --connections N  --late SHARE  --repeat SHARE  --grace SECONDSs
#   --connections is 16, or 1 where the rate is max: of several that send as fast as they may mosquitto reads a packet each
#   before it reads one more acknowledgement of the subscriber's, which pile up by the million
#   --inflight N (the broker's max_inflight_messages)  --drain SECONDSs (for what came to be stored, 120)
#   --store (a VictoriaMetrics that takes the rows of every minute, not compressed)  --fields mean,max,count (of each metric only these; all)
#   --keep (leaves the folder)  --perf (samples the collector)
#
# SITEPULSE_BIN is the binary (default: target/release/sitepulse), SITEPULSE_COLLECTOR another one for the collector alone,
# such as a build without `demo`. Needs mosquitto and curl, no root. CPU times are those of /proc, so they hold on a machine
# that is busy; rates and waits hold on an idle one only.
set -euo pipefail
cd "$(dirname "$0")/.."

sites=75000 rate=7500 span=60 qos=1 connections= late=0 repeat=0 grace=5s inflight=5000 drain=120 keep= perf= with_store= fields=
usage() { sed -n '2,20s/^# \{0,1\}//p' "$0"; exit "${1:-2}"; }
while (($#)); do
  case $1 in
    --sites) sites=$2; shift ;;
    --rate) rate=$2; shift ;;
    --for) span=${2%s}; shift ;;
    --qos) qos=$2; shift ;;
    --connections) connections=$2; shift ;;
    --late) late=$2; shift ;;
    --repeat) repeat=$2; shift ;;
    --grace) grace=$2; shift ;;
    --inflight) inflight=$2; shift ;;
    --drain) drain=${2%s}; shift ;;
    --keep) keep=1 ;;
    --store) with_store=1 ;;
    --fields) fields=$2; shift ;;
    --perf) perf=1 ;;
    -h | --help) usage 0 ;;
    *) printf 'no option %s\n' "$1" >&2; usage ;;
  esac
  shift
done
if [ -z "$connections" ]; then [ "$rate" = max ] && connections=1 || connections=16; fi
[ -z "$fields" ] || [[ -n $with_store && $fields =~ ^[a-z]+(,[a-z]+)*$ ]] || usage
[[ $sites =~ ^[0-9]+$ && $span =~ ^[0-9]+$ && $qos =~ ^[01]$ && $connections =~ ^[1-9][0-9]*$ ]] || usage

bin=$(realpath "${SITEPULSE_BIN:-target/release/sitepulse}")
collector_bin=$(realpath "${SITEPULSE_COLLECTOR:-$bin}")
[ -x "$bin" ] || { echo "no $bin: cargo build --release" >&2; exit 1; }
name=city
. benches/lib.sh

# 1. the bare consumer
start_broker
: >"$folder/consume.log"
"$bin" simulate consume --broker "mqtt://127.0.0.1:$mqtt" --qos "$qos" --idle 3s --json >"$folder/consume.json" 2>"$folder/consume.log" &
consumer=$!; started+=("$consumer")
wait_until "the consumer's subscription" 10 grep -q subscribed "$folder/consume.log"
begun=$(date +%s.%N)
# A minute of it is enough: it does the same all the time.
span=$((span < 60 ? span : 60)) load "$folder/load-bare.json"
rested=$(rest_of "$broker")
took_bare=$(calc "$rested - $begun" 3)
sent_bare=$(json messages "$folder/load-bare.json")
# It ends by itself when nothing more comes.
wait "$consumer"
broker_bare=($(cpu_of "$broker"))
stop "$broker"

# 2. the collector
start_broker
api=$(free_port)
"$bin" simulate inventory --sites "$sites" --broker "mqtt://127.0.0.1:$mqtt" --listen "127.0.0.1:$api" --out "$folder/city" >/dev/null
if [ -n "$with_store" ]; then
  far=$(free_port)
  "$(command -v victoria-metrics || command -v victoria-metrics-prod)" -storageDataPath "$folder/far" -httpListenAddr "127.0.0.1:$far" \
    -retentionPeriod 1y >"$folder/far.log" 2>&1 &
  store=$!; started+=("$store")
  wait_until "the store" 20 curl -sf -o /dev/null "http://127.0.0.1:$far/health"
  printf '\n[[influx]]\nname = "city"\nurl = "http://127.0.0.1:%s"\norg = "city"\nbucket = "city"\nwindows = ["1m"]\ncompress = false\n' "$far" \
    >>"$folder/city/sitepulse.toml"
  if [ -n "$fields" ]; then echo "fields = [\"${fields//,/\", \"}\"]" >>"$folder/city/sitepulse.toml"; fi
fi
SITEPULSE__ROLLUP__GRACE=$grace "$collector_bin" run --config "$folder/city" >"$folder/collector.log" 2>&1 &
collector=$!; started+=("$collector")
wait_until "the collector" 60 curl -sf -o /dev/null "http://127.0.0.1:$api/ready"
wait_until "the collector's subscription" 30 subscribed
cpu_0=($(cpu_of "$collector")) written_0=$(written_by "$collector") rss_0=$(memory_of "$collector" VmHWM)
threads_of "$collector" >"$folder/threads-0"
begun=$(date +%s.%N)
start_perf 499
load "$folder/load.json" &
loading=$!; started+=("$loading")
# How late each window became final, and how fast memory grows, once a second.
: >"$folder/looks"
(while sleep 1; do
  metrics >"$folder/now" 2>/dev/null || continue
  printf '%s %s %s\n' "$(value sitepulse_pipeline_final_delay_ms <"$folder/now")" "$(value sitepulse_pipeline_flush_us <"$folder/now")" \
    "$(awk '/^VmRSS/ { print $2 }' "/proc/$collector/status")" >>"$folder/looks"
done) &
looker=$!; started+=("$looker")
if [ -n "$with_store" ]; then
  # How many lines the store has taken, and its CPU time, by the time.
  (while sleep 0.1; do
    count=$(value_now sitepulse_influx_lines_written) && printf '%s %s %s\n' "$(date +%s.%N)" "$count" "$(cpu_of "$store")" >>"$folder/lines"
  done) &
  started+=($!)
fi
wait "$loading"
looks=$(wc -l <"$folder/looks")
sent=$(json messages "$folder/load.json")
# All is acknowledged, then all is in the store. At QoS 0 the broker may have dropped some, so that it may end earlier.
still=0 last=-1
while :; do
  metrics >"$folder/end" || { sleep 0.2; continue; }
  heard=$(value sitepulse_mqtt_messages <"$folder/end")
  if [ "$heard" = "$last" ]; then still=$((still + 1)); else still=0 last=$heard; fi
  { [ "$heard" -ge "$sent" ] || [ "$still" -ge 100 ]; } && break
  sleep 0.05
done
rested=$(rest_of "$broker")
took=$(calc "$rested - $begun" 3)
broker_full=($(cpu_of "$broker"))
stored=0 late_by="" give_up=$(($(date +%s) + drain))
while [ "$stored" -lt "$heard" ]; do
  if [ "$(date +%s)" -ge "$give_up" ]; then late_by="> "; break; fi
  sleep 0.1
  if metrics >"$folder/now-stored"; then mv "$folder/now-stored" "$folder/end"; stored=$(value sitepulse_pipeline_stored_messages <"$folder/end"); fi
done
stored_at=$(date +%s.%N)
stop_perf
kill "$looker" 2>/dev/null || true
cpu_1=($(cpu_of "$collector")) written_1=$(written_by "$collector") rss_1=$(memory_of "$collector" VmHWM)
threads_of "$collector" >"$folder/threads-1"

# 3. the table
quantile() { # share: milliseconds within which that share of acknowledgements was given
  awk -v share="$1" '
    match($1, /acks_within_[0-9]+_ms/) { split(substr($1, RSTART), part, "_"); within[part[3] + 0] = $2 }
    index($1, "sitepulse_mqtt_acks{") == 1 { all = $2 }
    END {
      if (!all) { print "-"; exit }
      count = split("1 2 5 10 15 20 30 50 100 200 500 1000", ends, " ")
      for (i = 1; i <= count; i++) if (within[ends[i]] >= share * all) { printf "<= %d ms\n", ends[i]; exit }
      print "> 1 s"
    }' "$folder/end"
}
final() { # share: of the distinct waits of windows
  awk '$1 > 0 && $1 != last { print $1; last = $1 }' "$folder/looks" 2>/dev/null | sort -n >"$folder/finals"
  awk -v share="$1" '{ wait[NR] = $1 } END { if (!NR) print "-"; else { at = int(share * NR + 0.999); print wait[at < 1 ? 1 : at] " ms (of " NR ")" } }' "$folder/finals"
}
taken() { # s until the other store had 99 % of a minute's rows, and of how much CPU time of its own that was. Not of minutes with which five are over, whose indicators count too, nor of
  # those at whose time rows of the one before were on their way still, nor of the first: a store that sees its series for the first time takes a minute and more for it.
  awk -v sites="$sites" -v grace="${grace%s}" '
    { at[NR] = $1; lines[NR] = $2; cpu[NR] = ($3 + $4) / 100 }
    END {
      for (due = int((at[1] - grace) / 60 + 1) * 60 + grace; due < at[NR]; due += 60) {
        if ((due - grace) % 300 == 0) continue
        base = before = -1
        for (i = 1; i <= NR && at[i] <= due + 60; i++)
          if (at[i] <= due) { base = lines[i]; cpu_0 = cpu[i]; if (at[i] <= due - 5) before = base }
          else if (base != before || base < 0.99 * sites) break
          else if (lines[i] - base >= 0.99 * sites) { printf "%s%.1f (%.1f)", n++ ? ", " : "", at[i] - due, cpu[i] - cpu_0; break }
      }
      if (!n) printf "-"
    }' "$folder/lines"
}
rss_by_quarter() { # MiB of RSS at the quarters of the load
  awk -v count="$looks" '
    NR <= count { rss[NR] = $3 / 1024 }
    END { if (count < 4) print "-"; else for (i = 1; i <= 4; i++) printf "%.0f%s", rss[int(count * i / 4)], i < 4 ? ", " : "\n" }' "$folder/looks"
}
applied=$(value sitepulse_readings_applied_total <"$folder/end")
bare_count=$(json messages "$folder/consume.json")
bare_rate=$(calc "$bare_count / $took_bare" 0)
bare_user=$(json cpu_user_s "$folder/consume.json") bare_system=$(json cpu_system_s "$folder/consume.json")
user=$(calc "(${cpu_1[0]} - ${cpu_0[0]}) / 100") system=$(calc "(${cpu_1[1]} - ${cpu_0[1]}) / 100")
million=$(calc "$heard / 1e6" 6) bare_million=$(calc "$bare_count / 1e6" 6)
echo "$sites sites, rate $rate, ${span} s, QoS $qos, $connections connections, late $late, repeat $repeat; $(nproc) cores, load $(cut -d' ' -f1-3 /proc/loadavg)"
row "" collector "bare consumer" ratio
row "messages sent" "$sent" "$sent_bare" ""
row "messages received" "$heard" "$bare_count" ""
rate_full=$(calc "$heard / $took" 0)
row "messages per s, until the broker rests" "$rate_full" "$bare_rate" "$(per "$rate_full" "$bare_rate")"
row "readings per s" "$(calc "13 * $heard / $took" 0)" "$(calc "13 * $bare_rate" 0)" ""
full_all=$(per "($user + $system)" "$million") bare_all=$(per "($bare_user + $bare_system)" "$bare_million")
row "CPU s per million messages" "$full_all" "$bare_all" "$(per "$full_all" "($bare_all + 1e-9)")"
row "  user" "$(per "$user" "$million")" "$(per "$bare_user" "$bare_million")" ""
row "  system" "$(per "$system" "$million")" "$(per "$bare_system" "$bare_million")" ""
row "cores used" "$(calc "($user + $system) / ($stored_at - $begun)" 3)" "$(calc "($bare_user + $bare_system) / $(json elapsed_s "$folder/consume.json")" 3)" ""
row "broker's CPU s per million messages" "$(per "(${broker_full[0]} + ${broker_full[1]}) / 100" "$million")" "$(per "(${broker_bare[0]} + ${broker_bare[1]}) / 100" "$bare_million")" ""
row "simulate's CPU s per million messages" "$(calc "$(json cpu_us_per_message "$folder/load.json")")" "$(calc "$(json cpu_us_per_message "$folder/load-bare.json")")" ""
row "peak RSS, MiB (before the load)" "$(calc "$rss_1 / 1024" 0) ($(calc "$rss_0 / 1024" 0))" "" ""
row "RSS at 1/4, 1/2, 3/4, end of the load, MiB" "$(rss_by_quarter)"
row "bytes written per reading" "$(calc "($written_1 - $written_0) / (13 * $heard)" 1)" "" ""
row "acknowledged within, p50" "$(quantile 0.5)" "" ""
row "acknowledged within, p99" "$(quantile 0.99)" "" ""
row "longest wait for it, ms" "$(calc "$(value sitepulse_mqtt_ack_wait_us_max <"$folder/end") / 1000" 1)" "" ""
row "window final in the store after its time, p50" "$(final 0.5)" "" ""
row "  p99" "$(final 0.99)" "" ""
if [ -n "$with_store" ]; then row "a minute's rows in the other store after its time, s (its CPU s)" "$(taken)"; fi
row "last message to everything stored, s" "$late_by$(calc "$stored_at - $rested" 1)" "" ""
row "messages in the store by then" "$stored" "" ""
row "readings applied" "$applied" "" ""
row "ledger balanced" "$(value sitepulse_ledger_balanced <"$folder/end")" "" ""
flushes=$(value sitepulse_pipeline_flushes <"$folder/end")
row "flushes, and ms of each" "$flushes x $(calc "$(value sitepulse_pipeline_flush_us <"$folder/end") / 1000 / ($flushes + 1e-9)" 0)" "" ""
echo
threads_table "the collector's threads: us per message" "1e6 / $heard" "$(calc "$stored_at - $begun")"
perf_table 60
