, 'heartbeats', (SELECT json_agg(json_build_array(h.id, h.age)) FROM (SELECT replica_id::text AS id,
  greatest(0, extract(epoch FROM clock_timestamp() - last_heartbeat))::float8 AS age FROM replica_heartbeat
  WHERE isfinite(last_heartbeat) AND last_heartbeat > clock_timestamp() - interval '1 hour'
  ORDER BY last_heartbeat DESC LIMIT {limit}) h)
, 'has_heartbeat_rows', EXISTS (SELECT FROM replica_heartbeat)
