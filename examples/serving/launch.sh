#!/bin/sh
# Starts the serving example on a request plane: launch.sh --help
set -eu

usage() {
  cat <<'TEXT'
Usage: launch.sh [--tcp | --nats] [-- ARGUMENT...]

Starts a frontend, a router and two workers, and prints the curl command to try them with. Ctrl-C stops them.

  --tcp       they talk over TCP
  --nats      they talk over the NATS of NATS_SERVER; while that is unset, over a nats-server started beside them
  -h, --help  show this

Without a flag, DYN_REQUEST_PLANE and the config say the plane. What follows -- goes to `callboard up`.
CONFIG=FILE starts another config. The first start makes the environment .venv of this checkout.
TEXT
}

refuse() {
  echo "launch.sh: $1; see launch.sh --help" >&2
  exit 2
}

plane=
while [ $# -gt 0 ]; do
  case $1 in
    --tcp | --nats)
      [ -z "$plane" ] || [ "$plane" = "${1#--}" ] || refuse "--tcp and --nats exclude each other"
      plane=${1#--}
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    --)
      shift
      break
      ;;
    *) refuse "unknown argument '$1'; arguments of callboard up go behind --" ;;
  esac
  shift
done

here=$(dirname -- "$(readlink -f -- "$0")")
root=$(dirname -- "$(dirname -- "$here")")
config=${CONFIG:-$here/serve.toml}
[ -x "$root/.venv/bin/callboard" ] || make -C "$root" .venv/serving.stamp >&2

case $plane in
  "") ;;
  nats) if [ -n "${NATS_SERVER:-}" ]; then set -- --plane nats "$@"; else set -- --nats-embedded "$@"; fi ;;
  *) set -- --plane "$plane" "$@" ;;
esac
exec "$root/.venv/bin/callboard" up "$config" "$@"
