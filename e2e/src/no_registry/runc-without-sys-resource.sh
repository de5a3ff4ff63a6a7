#!/bin/sh
# An OCI runtime for Docker on machines that withhold CAP_SYS_RESOURCE. Docker asks for every
# capability it knows in a privileged container, and runc refuses what it cannot give. This takes
# the one capability out of the specification, for containers and for `docker exec`, and calls runc.
subcommand='' bundle='' process='' previous=''
for argument in "$@"; do
  case $previous in
    --bundle | -b) bundle=$argument ;;
    --process | -p) process=$argument ;;
  esac
  case $argument in
    create | run | exec) [ -n "$subcommand" ] || subcommand=$argument ;;
  esac
  previous=$argument
done
case $subcommand in
  create | run) specification=${bundle:-.}/config.json ;;
  exec) specification=$process ;;
  *) specification='' ;;
esac
if [ -n "$specification" ] && [ -f "$specification" ]; then
  sed -i 's/"CAP_SYS_RESOURCE",//g; s/,"CAP_SYS_RESOURCE"//g' "$specification"
fi
exec runc "$@"
