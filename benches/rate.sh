#!/usr/bin/env bash
# As fast as the broker takes it, against a bare consumer: benches/city.sh --rate max several times, since such a rate differs by
# a tenth from run to run. Each has both, one after the other, and a minute's end; last come the medians, and the ratio over all runs.
#
#   benches/rate.sh                          five runs of a minute each way, about twelve minutes
#   benches/rate.sh --runs 3 --for 20s       what it does not know goes to city.sh
set -euo pipefail
cd "$(dirname "$0")"

runs=5 span=60s others=()
while (($#)); do
  case $1 in
    --runs) runs=$2; shift 2 ;;
    --for) span=$2; shift 2 ;;
    -h | --help) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit ;;
    *) others+=("$1"); shift ;;
  esac
done
[[ $runs =~ ^[1-9][0-9]*$ ]] || { echo "--runs: a count of runs, not $runs" >&2; exit 2; }

folder=$(mktemp -d "${TMPDIR:-/tmp}/sitepulse-rate.XXXXXX")
trap 'rm -rf "$folder"' EXIT
columns='%4s %12s %12s %8s %12s %12s %12s %14s\n'
# shellcheck disable=SC2059
printf "$columns" run messages/s "bare one's" ratio "CPU us each" "broker's" "beside bare" "s until stored"
for ((run = 1; run <= runs; run++)); do
  ./city.sh --rate max --for "$span" "${others[@]}" >"$folder/run"
  awk -v run="$run" -v columns="$columns" '
    /^messages per s,/ { rate = $(NF - 2); bare = $(NF - 1); ratio = $NF }
    /^CPU s per million/ { cpu = $(NF - 2) }
    /^broker.s CPU s per million/ { broker = $(NF - 1); beside = $NF }
    /^last message to everything stored/ { stored = $NF; given_up = / > / }
    /^ledger balanced/ { balanced = $NF }
    END {
      if (given_up || balanced != 1) { print "run " run ": not everything was stored, or the ledger does not balance" > "/dev/stderr"; exit 1 }
      printf columns, run, rate, bare, ratio, cpu, broker, beside, stored
    }' "$folder/run" | tee -a "$folder/table"
done
median() { sort -n -k"$1,$1" "$folder/table" | awk -v column="$1" '{ of[NR] = $column } END { print (of[int((NR + 1) / 2)] + of[int(NR / 2) + 1]) / 2 }'; }
# shellcheck disable=SC2059
printf "$columns" mid "$(median 2)" "$(median 3)" "$(median 4)" "$(median 5)" "$(median 6)" "$(median 7)" "$(median 8)"
awk '{ full += $2; bare += $3 } END { printf "over all runs the ratio is %.3f\n", full / bare }' "$folder/table"
