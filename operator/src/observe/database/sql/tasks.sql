, 'running', (SELECT json_agg(json_build_array(r.id, r.n)) FROM (SELECT replica_id::text AS id, count(*) AS n
  FROM task_run WHERE status::text = 'RUNNING' AND replica_id IS NOT NULL GROUP BY 1 ORDER BY 1 LIMIT {rows}) r),
  'pending', (SELECT count(*) FROM (SELECT FROM task_run WHERE status::text = 'PENDING' {due} LIMIT {count}) p),
  'available', (SELECT count(*) FROM (SELECT FROM task_run WHERE status::text = 'AVAILABLE' LIMIT {count}) a)
