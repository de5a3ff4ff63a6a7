SELECT array_agg(query_start AT TIME ZONE 'UTC')::text FROM pg_stat_activity
  WHERE datname = current_database() AND application_name = $1
  AND query ~* '^[[:space:]]*insert[[:space:]]+into[[:space:]]+([^[:space:]]+[.])?replica_heartbeat[[:>:]]'
  AND backend_start >= clock_timestamp() - make_interval(secs => $2)
