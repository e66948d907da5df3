#!/bin/sh
# Runs nginx and, every hour, renames its logs and has it open new ones: what logrotate does on a host. Three old ones stay.
set -eu
dir=${LOG_DIR:-/var/log/web}
every=${ROTATE_SECONDS:-3600}

rotate() {
  for name in nginx.access.log nginx.error.log; do
    [ -s "$dir/$name" ] || continue
    for old in 2 1; do
      [ ! -e "$dir/$name.$old" ] || mv -f "$dir/$name.$old" "$dir/$name.$((old + 1))"
    done
    mv -f "$dir/$name" "$dir/$name.1"
  done
  nginx -s reopen
}

(while sleep "$every"; do rotate || echo "rotating failed; trying again in $every s" >&2; done) &
exec nginx -g 'daemon off;'
