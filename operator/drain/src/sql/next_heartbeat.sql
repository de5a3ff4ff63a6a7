SELECT extract(epoch FROM min(last_heartbeat) - clock_timestamp())::float8 + $1 FROM replica_heartbeat
  WHERE last_heartbeat BETWEEN clock_timestamp() - make_interval(secs => $2) AND clock_timestamp()
