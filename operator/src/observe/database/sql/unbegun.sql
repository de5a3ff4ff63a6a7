, 'unbegun', (SELECT json_agg(json_build_array(r.id, r.n)) FROM (SELECT replica_id::text AS id, count(*) AS n
  FROM task_run WHERE status::text = 'RUNNING' AND replica_id IS NOT NULL AND started_at IS NULL
  AND updated_at < now() - interval '{unbegun_after}' GROUP BY 1 ORDER BY 1 LIMIT {rows}) r)
