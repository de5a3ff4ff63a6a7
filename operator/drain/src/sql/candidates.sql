SELECT h.replica_id::text, h.last_heartbeat::text, extract(epoch FROM s.began - h.last_heartbeat)::float8
  FROM (SELECT began AT TIME ZONE 'UTC' AS began FROM unnest($1::text[]) seen(times), unnest(times::timestamp[]) u(began)) s
  JOIN replica_heartbeat h ON h.last_heartbeat BETWEEN s.began - make_interval(secs => $2) AND s.began
