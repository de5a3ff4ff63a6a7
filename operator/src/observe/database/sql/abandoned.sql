SELECT coalesce(json_agg(json_build_array(r.id, r.n)), '[]')::text FROM (SELECT f.id, count(*) AS n
  FROM (SELECT t.replica_id::text AS id, t.result FROM task_run t
    WHERE t.status::text = 'FAILED' AND t.updated_at > clock_timestamp() - interval '1 day' AND t.replica_id::text IN (SELECT h.replica_id::text FROM replica_heartbeat h
      WHERE isfinite(h.last_heartbeat) AND h.last_heartbeat > clock_timestamp() - interval '1 minute') OFFSET 0) f
  WHERE f.result ->> 'detail' LIKE 'Task run abandoned%' GROUP BY 1 ORDER BY 1 LIMIT {rows}) r
