SELECT f.owner, f.started FROM (SELECT t.replica_id::text AS owner,
    coalesce(extract(epoch FROM t.started_at), 0)::float8 AS started, t.result
    FROM task_run t WHERE t.status::text = 'FAILED' AND t.updated_at > clock_timestamp() - interval '1 day'
    AND (t.replica_id::text = $1 OR t.replica_id::text IN (SELECT h.replica_id::text FROM replica_heartbeat h
      WHERE isfinite(h.last_heartbeat) AND h.last_heartbeat > clock_timestamp() - interval '1 minute')) OFFSET 0) f
  WHERE f.result ->> 'detail' LIKE 'Task run abandoned%'
