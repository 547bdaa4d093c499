#!/bin/bash
# Succeeds where the daemon answers GET /health with 200. Bash alone, so that the image carries no HTTP client.
set -eu
host=${SITEPULSE_HEALTH_HOST:-127.0.0.1}
port=${SITEPULSE_HEALTH_PORT:-8800}
exec 3<>"/dev/tcp/$host/$port"
authorization=""
[ -z "${SITEPULSE_API_TOKEN:-}" ] || authorization="Authorization: Bearer $SITEPULSE_API_TOKEN"$'\r\n'
printf 'GET /health HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n%s\r\n' "$host:$port" "$authorization" >&3
read -r _ status _ <&3
[ "$status" = 200 ]
